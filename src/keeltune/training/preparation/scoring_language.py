"""The language that each domain's answers are scored in: named by the recipe, or told once from its right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace

from keeltune.data.dataset import Row
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common import language
from keeltune.tasks.common.language import Language
from keeltune.tasks.common.scoring import Scoring
from keeltune.tasks.metrics.metric import right_answers
from keeltune.tasks.task import Task
from keeltune.training.preparation.problem_log import ProblemLog
from keeltune.utils.errors import Problem

TARGET = ("train", "validation", "test")
SOURCE = ("source_train", "source_validation", "source")
"""The labelled splits of each domain."""


def settle(recipe: Recipe, task: Task, rows: Mapping[str, Sequence[Row]], log: ProblemLog) -> tuple[Task, Task]:
    """The task in the language of the target domain, and in that of the source domain.

    The two are one where their languages are. What is told is said in `log`, with a warning where a metric cannot fit.
    """
    if recipe.evaluation.language and language.named(recipe.evaluation.language) is None:
        expected = "a language's ISO 639 code, with a script where that matters, or its English name"
        log.errors.append(recipe.problem("evaluation.language", expected=expected, fix="write de, zh-Hant or Thai"))
    if task.scoring.faults() or not task.scoring.reads_language:
        return task, task
    target_rows, source_rows = (
        language.sample([rows[name] for name in splits if name in rows]) for splits in (TARGET, SOURCE)
    )
    target, source = _named(recipe) or told(task, target_rows), told(task, source_rows)
    if target is None:
        return task, task
    task = in_language(task, target)
    _say(recipe, task, target_rows, log, "target" if source_rows else None)
    if source is None or source.by == language.ASSUMED or source.code == target.code:
        return task, task
    other = in_language(task, source)
    _say(recipe, other, source_rows, log, "source")
    return task, other


def in_language(task: Task, language: Language) -> Task:
    """The same task, its answers scored in this language."""
    other = copy(task)
    other.settings = replace(task.settings, language=language)
    other.scoring = Scoring(task.answer, task.metrics_of(task.settings), task.reported, other.settings)
    return other


def told(task: Task, sample: Sequence[Row]) -> Language | None:
    """The language of labelled rows (`language.sample`); None where there are none."""
    return language.detect(texts_of(task, sample)) if sample else None


def texts_of(task: Task, sample: Sequence[Row]) -> list[str]:
    """What a language is told by: texts of some of the rows, evenly spread."""
    passage = task.passage
    return [str(row.fields[passage]) if passage else " ".join(right_answers(task.gold(row))) for row in sample]


def said(task: Task) -> str:
    """The language of a task's scores, and how it is known."""
    told = task.settings.language
    assert told is not None
    hint = {
        language.NAMED: "as the recipe says",
        language.DETECTED: "told from its texts; evaluation.language names another",
        language.ASSUMED: "assumed, as its texts are too short to tell; evaluation.language names another",
    }[told.by]
    return f"{told.code}: {hint}"


def _named(recipe: Recipe) -> Language | None:
    """The recipe's own: `evaluation.language`, else the target of `languages`."""
    name = recipe.evaluation.language or (recipe.languages.target if recipe.languages else None)
    return None if name is None else language.named(name)


def _say(recipe: Recipe, task: Task, rows: Sequence[Row], log: ProblemLog, domain: str | None) -> None:
    """`domain`: which one's answers they are, where there are two."""
    if domain is None:
        log.notices.append(f"answers are scored in {said(task)}")
    else:
        log.notices.append(f"the {domain} domain's answers are scored in {said(task)}")
    expected, fix = "metrics that fit the texts", "name evaluation.language if it is wrong, or read the other metrics"
    log.warnings += [
        Problem(recipe.where("evaluation"), "evaluation", found, expected, fix, severity="warning")
        for found in task.scoring.misfits(texts_of(task, rows))
    ]
