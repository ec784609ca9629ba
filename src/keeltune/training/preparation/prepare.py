"""Everything that a recipe names is read and checked here, before any weight is loaded: read, label, encode, check.

    read     reading.py      the models' configurations and processors, the rows of each split
    label    labelling.py    the labels; the rows of each split as it will be used, held against them
    encode   encoding.py     the references compared with the student; rows -> examples
    check    task_checks.py  what the task can do with these examples

Every problem is found that can be found, and all are reported at once (`problem_log.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from keeltune.data.dataset import spread
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common.stored_examples import flat
from keeltune.training.preparation import defaults
from keeltune.training.preparation.encoding import Encoded, encode
from keeltune.training.preparation.error_list import all_listed
from keeltune.training.preparation.harness_tasks import harness_tasks
from keeltune.training.preparation.labelling import Labelled, label
from keeltune.training.preparation.material import Material
from keeltune.training.preparation.metric_trial import metric_problems
from keeltune.training.preparation.named_tests import named_tests
from keeltune.training.preparation.problem_log import ProblemLog, placed
from keeltune.training.preparation.reading import Reading, read
from keeltune.training.preparation.row_encoding import encode_row, field_of
from keeltune.training.preparation.splits import require_enough_rows
from keeltune.training.preparation.task_checks import (
    control_token_warnings,
    lesson_problems,
    router_warnings,
    truncation_warnings,
    writing_problems,
)
from keeltune.training.preparation.variants import variant_rows

NOTHING_BEGUN: Mapping[str, int | float] = {}


def prepare(
    recipe: Recipe,
    progress: Callable[[str], None] = lambda what: None,
    *,
    limit: int | None = None,
    begun: Mapping[str, int | float] = NOTHING_BEGUN,
) -> Material:
    """Reads and checks all that a recipe names. Raises UserError with every problem found.

    limit   how many rows of a split are encoded at most, spread evenly over it, where it is not for training; all are
            read, labelled and held against one another, and stay in their files
    begun   what a run that goes on has in the place of what the recipe leaves at auto
    """
    log = ProblemLog(skips_rows=recipe.data.bad_rows == "skip")
    with all_listed(recipe, log), placed(recipe.where):
        reading = read(recipe, log, progress, in_files=limit is not None)
        labelled = label(recipe, reading, log)
        log.raise_errors()
        progress("encoding rows")
        encoded = encode(recipe, reading, labelled, log, limit)
        check(recipe, encoded, log)
        tests = named_tests(recipe, encoded.task, log, limit)
        harness = harness_tasks(recipe, encoded.task.settings.auto_model, log)
        log.raise_errors()
    material = _material(recipe, reading, labelled, encoded, log, limit)
    material.named_tests, material.harness = tests, harness
    require_enough_rows(material)
    defaults.decide(material, reading.student.untrained, labelled.held_out, begun)
    material.notices += defaults.sentences(material)
    return material


def check(recipe: Recipe, encoded: Encoded, log: ProblemLog) -> None:
    """What is cut off the examples, and texts that nothing would write."""
    task, examples = encoded.task, encoded.examples
    log.add([*lesson_problems(recipe, task, examples["train"]), *router_warnings(recipe, task.settings.config)])
    log.warnings += control_token_warnings(task, encoded.rows, lambda split: recipe.where(field_of(split)))
    log.warnings += truncation_warnings(recipe, examples, task.settings)
    log.errors += [] if log.errors else metric_problems(task, encoded.rows)
    log.errors += writing_problems(recipe, task, examples["unlabeled"], bool(encoded.references))


def _material(
    recipe: Recipe, reading: Reading, labelled: Labelled, encoded: Encoded, log: ProblemLog, limit: int | None
) -> Material:
    """What preparation hands on, with the variants of its rows."""
    task, rows, examples = encoded.task, encoded.rows, encoded.examples
    varied = {name: spread(rows[name], limit) for name in ("train", "unlabeled") if recipe.data.augment}
    rows["augmented"] = variant_rows(recipe, reading.task_class, varied)
    examples["augmented"] = [encode_row(task, row, "augmented") for row in rows["augmented"]]
    log.notices += [
        f"lengths: of {len(examples[name])} of {len(split)} rows of {name}, spread evenly; training encodes every row"
        for name, split in rows.items()
        if limit is not None and len(split) > max(limit, len(examples[name]))
    ]
    log.notices += task.notices(flat(examples["train"]))
    student = reading.student
    assert reading.source is not None and student.auto_model is not None
    return Material(
        recipe,
        task,
        reading.source,
        student.config,
        student.auto_model,
        student.processor,
        labelled.choice.new_head,
        reading.reference_is_start,
        rows,
        examples,
        encoded.references,
        encoded.anchor_task,
        encoded.source_task,
        log.notices,
        log.warnings,
        log.skipped,
        limit is not None,
    )
