"""Each split's rows, read from what the recipe names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keeltune.data import reading
from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.data.file_reader import RowBatch
from keeltune.data.labels import labels_of
from keeltune.data.row_labels import apply_label_map
from keeltune.data.row_problems import RowProblem
from keeltune.data.sources import DataSource
from keeltune.data.stored_rows import stored
from keeltune.recipe.data_fields import Source
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task
from keeltune.training.preparation.material import Material
from keeltune.training.preparation.problem_log import ProblemLog
from keeltune.training.preparation.row_encoding import field_of, row_problem
from keeltune.utils.collection import paused_collection
from keeltune.utils.errors import Problem, UserError, shown
from keeltune.utils.names import plain_name

PARTS = {
    "train": "train", "validation": "validation", "test": "test", "unlabeled": "train", "source": "test",
    "source_train": "train", "source_unlabeled": "train", "source_validation": "validation",
}  # fmt: skip
"""Each split, and which part of a data set it is that holds several."""


def task_columns(task_class: type[Task], multi_label: bool, labels: Any = None) -> list[Column]:
    """The task's columns; with `multi_label` the label column holds lists. `labels`: the recipe's `data.labels`, which
    name tags: a map from names in the data, or a list whose places are the numbers in the data."""
    named = labels.items() if isinstance(labels, Mapping) else enumerate(labels or ())
    names = tuple((plain_name(str(given)), plain_name(str(meant))) for given, meant in named)
    columns = [replace(c, names=names) if c.kind == "tags" else c for c in task_class.columns]
    return [replace(c, kind="labels") if c.label and multi_label else c for c in columns]


def read_splits(read: SplitReader) -> dict[str, Sequence[Row]]:
    """Every split's rows; problems go to the log, those of rows that are skipped among the skipped ones."""
    recipe, log = read.recipe, read.log
    if read.maps_in_vain:
        found, expected = "a map from names to names", "a list of names: only labels and tags can be mapped"
        where, fix = recipe.where("data.labels"), "rename them in the data"
        log.errors.append(Problem(where, "data.labels", found, expected, fix, "labels mapped"))
    return {name: read(name, source) for name, source in sources_of(recipe).items()} | {"augmented": []}


def sources_of(recipe: Recipe) -> dict[str, DataSource | None]:
    """What each split is read from; None for one that the recipe does not name, or takes a share of the rows for."""
    data = recipe.data
    named = {name: getattr(data, name) for name in ("train", "test", "unlabeled")} | {
        "validation": data.named_validation
    }
    named |= {"source" if n == "test" else f"source_{n}": getattr(data.source, n) for n in Source.model_fields}
    return {
        name: DataSource(named[name], recipe.path, recipe.where(field_of(name)), part, data.format)
        if isinstance(named[name], str)
        else None
        for name, part in PARTS.items()
    }


@dataclass(frozen=True)
class SplitReader:
    """Reads one split: its rows, those taken out that the task finds fault with, labels mapped as the recipe says.

    in_files   whether its rows stay in their files (`StoredRows`)
    """

    recipe: Recipe
    task_class: type[Task]
    columns: Sequence[Column]
    log: ProblemLog
    in_files: bool = False

    @property
    def maps_in_vain(self) -> bool:
        """Whether the recipe maps the names of labels that are in no column of labels or tags."""
        tagged = any(column.kind == "tags" for column in self.task_class.columns)  # mapped as they are read
        return isinstance(self.recipe.data.labels, dict) and labels_of(self.task_class) is not None and not tagged

    @paused_collection()
    def __call__(self, name: str, source: DataSource | None) -> Sequence[Row]:
        """The rows of a split; none where it has no source."""
        if source is None:
            return []
        spec, log, labelled = self.recipe.data, self.log, not name.endswith("unlabeled")
        faults, faulty = list[Problem](), list[Problem]()
        read = reading.read_batches(source, self.columns, spec.columns, faults, labelled=labelled)
        batches = (_sound_batch(self.task_class, batch, faulty, labelled=labelled) for batch in read)
        rows: Sequence[Row]
        if self.in_files:
            inputs = [column.name for column in self.columns if not column.label]
            rows = stored(batches, inputs, has_label=labels_of(self.task_class) is None)
        else:
            rows = [row for batch in batches for row in batch.rows()]
        log.add_found(faults)
        log.add_of_rows(faulty)
        old_labels = self.recipe.objective.anchor_head == "source" and name.startswith("source")
        in_column = labels_of(self.task_class) is None
        if isinstance(spec.labels, dict) and labelled and in_column and not old_labels:
            rows, unknown = apply_label_map(rows, spec.labels)
            log.add_of_rows(unknown)
        return rows


def _sound_batch(task_class: type[Task], batch: RowBatch, problems: list[Problem], *, labelled: bool) -> RowBatch:
    """`sound_rows` of a batch; the faults are added to `problems`."""
    if not task_class.finds_faults():
        return batch
    faulty = sound_rows(task_class, batch.rows(), labelled=labelled)[1]
    problems += faulty
    return batch.without({problem.line for problem in faulty})


def sound_rows(
    task_class: type[Task], rows: Sequence[Row], *, labelled: bool = True
) -> tuple[list[Row], list[RowProblem]]:
    """The rows without those that the task finds fault with, and their faults; not `labelled`: they are only read."""
    sound: list[Row] = []
    problems: list[RowProblem] = []
    for row in rows:
        if faults := list(task_class.faults(row, labelled=labelled)):
            problems += [row_problem(row, fault) for fault in faults]
        else:
            sound.append(row)
    return sound, problems


def emptied_splits(recipe: Recipe, rows: Mapping[str, Sequence[Row]], skipped: Sequence[Problem]) -> list[Problem]:
    """Splits of which `bad_rows: skip` left nothing."""
    return [
        Problem(recipe.where(field_of(name)), field_of(name), f"{shown(source.name)}, every row of which is skipped",
                "rows", "mend the rows; what is wrong with them: bad_rows: refuse")
        for name, source in sources_of(recipe).items()
        if skipped and source is not None and not rows[name]
    ]  # fmt: skip


def require_enough_rows(material: Material) -> None:
    rows, micro_batches = len(material.main_stream), material.micro_batches
    if rows < micro_batches:
        raise UserError(
            Problem(
                material.recipe.where("training.gradient_accumulation_steps"),
                "training.gradient_accumulation_steps",
                f"{rows} training rows for {micro_batches} micro-batches a step",
                "at least one row for each micro-batch",
                "lower gradient_accumulation_steps or the number of processes, or add rows",
            )
        )
