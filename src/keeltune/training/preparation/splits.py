"""Each split's rows, read from what the recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from keeltune.data import reading
from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.data.labels import labels_of
from keeltune.data.row_labels import apply_label_map
from keeltune.data.row_problems import RowProblem, is_row_problem
from keeltune.data.sources import DataSource
from keeltune.recipe.data_fields import Source
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task
from keeltune.training.preparation.encoding import field_of, row_problem
from keeltune.training.preparation.material import Material
from keeltune.utils.errors import Problem, UserError, shown


def task_columns(task_class: type[Task], multi_label: bool) -> list[Column]:
    """The task's columns; with `multi_label` the label column holds lists."""
    return [replace(c, kind="labels") if c.label and multi_label else c for c in task_class.columns]


def read_splits(
    recipe: Recipe, task_class: type[Task], columns: Sequence[Column], problems: list[Problem]
) -> tuple[dict[str, list[Row]], list[Problem]]:
    """Every split's rows; the problems that stop the run go to `problems`, those of skipped rows are returned."""
    spec = recipe.data
    skipped: list[Problem] = []
    mapped_in_vain = isinstance(spec.labels, dict) and labels_of(task_class) is not None
    if mapped_in_vain:
        found, expected = "a map from names to names", "a list of names: only a column `label` can be mapped"
        place = recipe.where("data.labels")
        problems.append(Problem(place, "data.labels", found, expected, "rename them in the data", "labels mapped"))

    def read(value: str | None, where: str, split: str, labelled: bool = True) -> list[Row]:
        if value is None:
            return []
        source = DataSource(value, recipe.path, recipe.where(where), split, spec.format)
        found, faults = reading.read(source, columns, spec.columns, labelled=labelled)
        for fault in faults:
            if fault.severity == "error":
                skip = spec.bad_rows == "skip" and is_row_problem(fault)
                (skipped if skip else problems).append(fault)
        found, faulty = sound_rows(task_class, found, labelled=labelled)
        (skipped if spec.bad_rows == "skip" else problems).extend(faulty)
        old = recipe.objective.anchor_head == "source" and where.startswith("data.source.")  # of other labels
        if isinstance(spec.labels, dict) and labelled and not mapped_in_vain and not old:
            found, unknown = apply_label_map(found, spec.labels)
            (skipped if spec.bad_rows == "skip" else problems).extend(unknown)
        return found

    rows = {
        "train": read(spec.train, "data.train", "train"),
        "validation": read(spec.validation, "data.validation", "validation")
        if isinstance(spec.validation, str)
        else [],
        "test": read(spec.test, "data.test", "test"),
        "unlabeled": read(spec.unlabeled, "data.unlabeled", "train", labelled=False),
        "source": read(spec.source.test, "data.source.test", "test"),
        "source_train": read(spec.source.train, "data.source.train", "train"),
        "source_unlabeled": read(spec.source.unlabeled, "data.source.unlabeled", "train", labelled=False),
        "source_validation": read(spec.source.validation, "data.source.validation", "validation"),
        "augmented": [],
    }
    return rows, skipped


def sound_rows(
    task_class: type[Task], rows: Sequence[Row], *, labelled: bool = True
) -> tuple[list[Row], list[RowProblem]]:
    """The rows without those that the task finds fault with, and their faults; not `labelled`: they are only read."""
    sound: list[Row] = []
    problems: list[RowProblem] = []
    for row in rows:
        found = [row_problem(row, fault) for fault in task_class.faults(row, labelled=labelled)]
        problems += found
        if not found:
            sound.append(row)
    return sound, problems


def emptied_splits(recipe: Recipe, rows: dict[str, list[Row]], skipped: Sequence[Problem]) -> list[Problem]:
    """Splits of which `bad_rows: skip` left nothing."""
    spec = recipe.data
    named = [("train", spec.train), ("validation", spec.validation), ("test", spec.test), ("unlabeled", spec.unlabeled)]
    named += [("source" if n == "test" else f"source_{n}", getattr(spec.source, n)) for n in Source.model_fields]
    return [
        Problem(recipe.where(field_of(name)), field_of(name), f"{shown(file)}, every row of which is skipped", "rows",
                "mend the rows; what is wrong with them: bad_rows: refuse")
        for name, file in named
        if skipped and isinstance(file, str) and not rows[name]
    ]  # fmt: skip


def require_enough_rows(material: Material) -> None:
    rows, cuts = len(material.main_stream), material.micro_batches
    if rows < cuts:
        raise UserError(
            Problem(
                material.recipe.where("training.gradient_accumulation_steps"),
                "training.gradient_accumulation_steps",
                f"{rows} training rows for {cuts} micro-batches a step",
                "at least one row for each micro-batch",
                "lower gradient_accumulation_steps or the number of processes, or add rows",
            )
        )
