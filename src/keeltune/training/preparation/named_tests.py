"""The named sets of `data.source.test`: what the student can do besides the work that it is trained for.

Each has a task of its own, which the student's one head must be able to answer: a decoder that is trained on summaries
may be asked for conversations, a classifier for texts of another domain. They are scored before and after training,
and nothing of them is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from keeltune.data import audit, reading
from keeltune.data.dataset import Row, spread, without
from keeltune.data.labels import labels_of
from keeltune.data.sources import DataSource
from keeltune.models import loading
from keeltune.recipe.data_fields import NamedTest
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common import language
from keeltune.tasks.task import Task
from keeltune.training.preparation import scoring_language
from keeltune.training.preparation.material import TestSet
from keeltune.training.preparation.problem_log import ProblemLog
from keeltune.training.preparation.reading import find_task
from keeltune.training.preparation.row_encoding import encode_row, encode_rows
from keeltune.training.preparation.splits import sound_rows, task_columns
from keeltune.utils.errors import Problem, UserError, shown

FIELD = "data.source.test"


def named_sources(recipe: Recipe) -> dict[str, DataSource]:
    """What each set is read from, by its field."""
    fields = {f"{FIELD}.{i}.data": test for i, test in enumerate(recipe.data.source.named_tests)}
    return {
        field: DataSource(test.data, recipe.path, recipe.where(field), "test", recipe.data.format)
        for field, test in fields.items()
    }


def named_tests(recipe: Recipe, task: Task, log: ProblemLog, limit: int | None = None) -> list[TestSet]:
    """The sets, read, checked and encoded, at most `limit` rows of each; problems go to `log`. `task`: the recipe's."""
    sets = []
    sources = named_sources(recipe).items()
    for test, (field, source) in zip(recipe.data.source.named_tests, sources, strict=True):
        field = field.removesuffix(".data")
        asked = log.collect(partial(_task_of, recipe, test, task, field))
        if asked is not None:
            sets.append(_read(recipe, test, asked, source, log, limit))
    return sets


def _task_of(recipe: Recipe, test: NamedTest, task: Task, field: str) -> Task:
    """The task of a set as the student answers it; UserError where its head cannot."""
    where = recipe.where(f"{field}.task")
    settings, task_class = task.settings, type(task)
    if test.task and test.task != recipe.task:
        task_class = find_task(test.task, where, f"{field}.task").for_model(settings.config)
    if task_class is not type(task):
        if {task_class.choices, task.choices} & {"labels", "numbers"}:
            found, expected = shown(test.task), f"a task that the head of {recipe.task} answers"
            fix = "leave the task out, or measure it in a run of its own: keeltune evaluate"
            raise UserError(Problem(where, f"{field}.task", found, expected, fix))
        needed = loading.pick(task_class.auto_models, settings.config, where, f"{field}.task")
        if needed != settings.auto_model:
            found, expected = f"{test.task}, which needs {needed}", f"a task of {settings.auto_model}, the student's"
            raise UserError(Problem(where, f"{field}.task", found, expected, "name another task, or leave the set out"))
        settings = replace(settings, metrics=(), metric=None, bleu_tokenizer=None, prompt=None)
    settings = replace(settings, prompt=test.asked or settings.prompt, language=None)
    if test.max_new_tokens is not None:
        settings = replace(settings, max_new_tokens=test.max_new_tokens)
    made = task_class(task.processor, settings)
    if faults := list(made.recipe_faults()):
        raise UserError([Problem(where, f"{field}.{f.field}", f.found, f.expected, f.fix) for f in faults])
    return made


def _read(
    recipe: Recipe, test: NamedTest, task: Task, source: DataSource, log: ProblemLog, limit: int | None
) -> TestSet:
    labels = recipe.data.labels if test.task in (None, recipe.task) else None
    columns = task_columns(type(task), task.settings.multi_label, labels)
    mapping = {**(recipe.data.columns if test.task in (None, recipe.task) else {}), **test.columns}
    faults: list[Problem] = []
    batches = reading.read_batches(source, columns, mapping, faults, labelled=True)
    rows: Sequence[Row]
    rows, faulty = sound_rows(type(task), [row for batch in batches for row in batch.rows()])
    log.add_found(faults)
    log.add_of_rows(faulty)
    names = list(task.settings.labels)
    if rows and (names or task.choices != "labels"):
        problems, bad = audit.audit({test.name: rows}, names, columns, task.settings.multi_label, labels_of(type(task)))
        log.add_found(problems)
        rows = without(rows, bad)
    task = _in_language(task, rows)
    tried = spread(rows, limit)
    taken, encoded, unread = encode_rows(task, tried, partial(encode_row, task, split="test"))
    log.add_of_rows(unread)
    if log.skipped and not taken:
        found, fix = f"{shown(source.name)}, every row of which is skipped", "mend the rows, or leave the set out"
        log.errors.append(Problem(source.where, f"{FIELD}.{test.name}", found, "rows", fix))
    return TestSet(test.name, task, taken, encoded)


def _in_language(task: Task, rows: Sequence[Row]) -> Task:
    """The task in the language of its own right answers."""
    if task.scoring.faults() or not task.scoring.reads_language:
        return task
    told = scoring_language.told(task, language.sample([rows]))
    return task if told is None else scoring_language.in_language(task, told)
