"""Predict, score, and say how sure: the same path for validation while training, for test sets and for the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keeltune.data.clusters import numbers_of
from keeltune.data.dataset import Row
from keeltune.evaluation.bootstrap import bootstrap, interval
from keeltune.evaluation.intervals import intervals as intervals_of
from keeltune.evaluation.intervals import metrics_of
from keeltune.tasks.common.example import Prediction
from keeltune.tasks.task import Task

WRITTEN = 200
"""Validation rows that are scored while training where answers are written token by token; all of them at the end."""


@dataclass(frozen=True)
class Scores:
    """A split's metrics (the primary first, the loss last), their 95 % intervals, and details such as `by_label`.

    `table` [rows, K + 2] is what they are made of: each row's statistics, its Σ CE and the count of its predictions.
    `cut`: how many answers were written to the most tokens without coming to their end. `seconds`: how long the model
    took to answer, None where that was not measured.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    details: dict[str, Any]
    table: np.ndarray = field(repr=False, compare=False)
    cut: int = 0
    seconds: float | None = field(default=None, compare=False)


def score(
    task: Task,
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    *,
    intervals: bool = True,
    clusters: str | None = None,
) -> Scores:
    """Metrics of labelled rows, with 95 % intervals over rows (`intervals.py`; no training noise is in them).

    `clusters` names a column: the rows of one value of it are drawn together.
    """
    probabilities = [[p.probabilities for p in predictions]] if task.scoring.reads_probabilities else []
    statistics = task.statistics([p.value for p in predictions], [task.gold(row) for row in rows], *probabilities)
    losses = np.array([[p.loss, p.count] for p in predictions])
    table = np.concatenate([statistics, losses], axis=1)
    scores = scores_of(task, table, intervals=intervals, clusters=numbers_of(rows, clusters))
    return replace(scores, cut=sum(p.cut for p in predictions))


def table_of(task: Task, lines: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """A `Scores.table` [rows, K + 2], made again of the lines of a prediction file; NaN where a file has no losses."""
    answers, golds = ([line[name] for line in lines] for name in ("prediction", "gold"))
    probabilities = [[line["probabilities"] for line in lines]] if task.scoring.reads_probabilities else []
    statistics = task.statistics(answers, golds, *probabilities)
    losses = np.array([[line.get("loss", np.nan), line.get("predictions", np.nan)] for line in lines])
    return np.concatenate([statistics, losses], axis=1)


def scores_of(task: Task, table: np.ndarray, *, intervals: bool = True, clusters: np.ndarray | None = None) -> Scores:
    """The same of a `Scores.table`, or of some of its rows; K = 0 leaves the loss alone. `clusters` [rows] or None."""
    sums = table.sum(0)
    metrics = {name: float(value) for name, value in metrics_of(task, sums).items()}
    ranges: dict[str, tuple[float, float]] = {}
    if intervals:
        resampled = metrics_of(task, bootstrap(table, clusters=clusters))
        units = len(table) if clusters is None else int(clusters.max()) + 1
        ranges = intervals_of(task, [table], resampled, units)
    return Scores(metrics, ranges, task.details(sums[:-2]) if table.shape[1] > 2 else {}, table)


def gain(
    task: Task, table: np.ndarray, baseline: np.ndarray, metric: str, clusters: np.ndarray | None = None
) -> tuple[float, float]:
    """The 95 % interval of how much better `table` is than `baseline`, in the metric's unit; below 0 it is worse."""
    resampled = differences(task, table, baseline, clusters)[metric]
    return interval(-resampled if metric in task.lower_is_better else resampled)


def differences(
    task: Task, table: np.ndarray, baseline: np.ndarray, clusters: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Each metric of `table` minus that of `baseline`, for each draw of the bootstrap: {name: [resamples]}.

    Both are tables [rows, K + 2] of the same rows, and each draw takes the same rows of both: what is hard for both
    does not widen an interval. A loss that only one of them has is left out.
    """
    resampled = bootstrap(np.concatenate([table, baseline], axis=1), clusters=clusters)
    a, b = (metrics_of(task, part) for part in np.split(resampled, [table.shape[1]], axis=1))
    return {name: a[name] - b[name] for name in a if name in b}
