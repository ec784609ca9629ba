"""Metrics that are functions of the user's are called before training, so that it is not them that fail at its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keeltune.data.dataset import Row
from keeltune.tasks.metrics._function import FunctionMetric
from keeltune.tasks.metrics._whole import Whole
from keeltune.tasks.metrics.metric import right_answers
from keeltune.tasks.task import Task
from keeltune.training.preparation.material import SCORED
from keeltune.utils.errors import Problem, UserError

TRIED = 64
"""Rows that are scored, as if each had been answered rightly."""


def metric_problems(task: Task, rows: Mapping[str, Sequence[Row]]) -> Iterator[Problem]:
    """What functions raise or return that is no score, and splits of more rows than a score of a whole takes."""
    scored = [rows[split] for split in SCORED if rows.get(split)]
    golds = [task.gold(row) for row in scored[0][:TRIED]] if scored else []
    for metric in task.scoring.metrics if golds else ():
        if not isinstance(metric, Whole):
            continue
        try:
            if isinstance(metric, FunctionMetric):
                metric.statistics([_right(task, metric.answers, gold) for gold in golds], golds)
            for split in scored:
                metric.refuse_too_many(len(split))
        except UserError as error:
            yield from error.problems


def _right(task: Task, answers: str, gold: Any) -> Any:
    """The right answer of a row, as a model would give it."""
    if answers == "probabilities":
        return {name: float(name in gold if isinstance(gold, list) else name == gold) for name in task.settings.labels}
    return next(iter(right_answers(gold)), "") if task.answer == "text" else gold
