"""The second step of a preparation: the labels are decided, rows are split by them and held against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keeltune.data import audit, dataset
from keeltune.data.dataset import Row, without
from keeltune.data.labels import LabelChoice, class_weights_of, decide_labels, labels_of
from keeltune.data.row_labels import label_codes
from keeltune.data.row_problems import is_row_problem
from keeltune.data.targets import decide_targets
from keeltune.models import configuration
from keeltune.recipe.fields import Recipe
from keeltune.training.preparation.defaults import divided
from keeltune.training.preparation.head_compatibility import check_student_head
from keeltune.training.preparation.material import SCORED, Default
from keeltune.training.preparation.problem_log import ProblemLog
from keeltune.training.preparation.reading import Reading
from keeltune.training.preparation.scored_columns import cluster_warnings, missing_columns
from keeltune.training.preparation.splits import emptied_splits
from keeltune.utils.collection import paused_collection


@dataclass(frozen=True)
class Labelled:
    """The labels of a run, and its rows: each split as it will be used, of known labels alone.

    held_out   what is said of the validation rows, where the recipe says nothing of them
    """

    choice: LabelChoice
    rows: dict[str, Sequence[Row]]
    class_weights: Mapping[str, float] | None
    held_out: Default | None = None


@paused_collection()
def label(recipe: Recipe, reading: Reading, log: ProblemLog) -> Labelled:
    """Decides the labels and checks the rows, and the student's head where that is the reference's too."""
    task_class = reading.task_class
    choice = _choice(recipe, reading)
    log.notices += choice.notices
    log.add(choice.problems)
    used, held_out = _divided(recipe, reading)
    rows = _known_labels(recipe, reading, choice, used, log)
    log.errors += emptied_splits(recipe, rows, log.skipped)
    scored = {split: rows[split] for split in SCORED}
    log.errors += missing_columns(recipe, scored)
    log.warnings += cluster_warnings(recipe, scored)
    _check_start(recipe, reading, choice, log)
    class_weights = class_weights_of(recipe, task_class, rows["train"], choice.names, log.errors)
    return Labelled(choice, rows, class_weights, held_out)


def _choice(recipe: Recipe, reading: Reading) -> LabelChoice:
    """The names of the choices, or of the numbers."""
    config = reading.student.config
    if reading.task_class.choices == "numbers":
        return decide_targets(recipe, reading.rows, config)
    return decide_labels(
        recipe,
        reading.task_class,
        reading.rows,
        model_head=configuration.head_names(config) if config is not None else None,
        teacher_head=lambda: _teacher_head(recipe, reading) if config is not None else None,
    )


def _teacher_head(recipe: Recipe, reading: Reading) -> list[str] | None:
    """The label names of the first teacher's head."""
    if not reading.reference_models:
        return None
    config = configuration.read_config(reading.reference_models[0], recipe.where("reference"), "reference")
    return configuration.head_names(config)


def _divided(recipe: Recipe, reading: Reading) -> tuple[dict[str, Sequence[Row]], Default | None]:
    """The rows with the validation rows that are taken from `train`, and the recipe's share of what is left.

    The labels are decided before: a small split may lack one.
    """
    rows, held_out = reading.rows, None
    train, validation = rows["train"], rows["validation"]
    if isinstance(recipe.data.validation, float) and train:
        train, validation = dataset.split_share(train, recipe.data.validation, recipe.seed)
    elif recipe.data.named_validation is None and train:
        train, validation, held_out = divided(recipe, reading.task_class, train)
    if recipe.data.share < 1:
        has_labels = any(column.name == "label" for column in reading.task_class.columns)
        strata = label_codes(train)[0] if has_labels else None
        train = dataset.nested_share(train, recipe.data.share, strata, recipe.data.share_seed)
    return {**rows, "train": train, "validation": validation}, held_out


def _known_labels(
    recipe: Recipe, reading: Reading, choice: LabelChoice, rows: dict[str, Sequence[Row]], log: ProblemLog
) -> dict[str, Sequence[Row]]:
    """The rows as the audit leaves them: with `bad_rows: skip` without those whose label is none."""
    task_class = reading.task_class
    for names, splits in choice.split_groups(recipe.objective.anchor_head, rows):
        audited = {split: rows[split] for split in splits if rows[split]}
        if not audited or (task_class.choices in ("labels", "numbers") and not names):
            continue
        problems, bad = audit.audit(audited, names, reading.columns, recipe.data.multi_label, labels_of(task_class))
        if log.skips_rows and bad:
            of_rows = [p for p in problems if p.severity == "error" and is_row_problem(p)]
            problems = [p for p in problems if not (p.severity == "error" and is_row_problem(p))]
            log.skipped += of_rows
            rows = rows | {s: without(split, bad) for s, split in audited.items()}
        log.add(problems)
    return rows


def _check_start(recipe: Recipe, reading: Reading, choice: LabelChoice, log: ProblemLog) -> None:
    """Where the reference is the student's start, its head must have been trained, and know these labels."""
    source, config, auto_model = reading.source, reading.student.config, reading.student.auto_model
    if not reading.reference_is_start or source is None or config is None or auto_model is None:
        return
    labelled = choice.names or reading.task_class.choices not in ("labels", "numbers")
    if recipe.objective.anchor_head == "task" and labelled:
        log.collect(lambda: check_student_head(recipe, source, config, choice.head, choice.names, auto_model))
