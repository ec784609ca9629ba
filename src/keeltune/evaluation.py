"""Predict, score, and say how sure: the same path for validation while training, for test sets and for the command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from keeltune.batching import by_length
from keeltune.data import Row
from keeltune.machine import in_eval_mode
from keeltune.tasks.task import Example, Prediction, Task

T = TypeVar("T")

RESAMPLES = 1000

WRITTEN = 200
"""Validation rows that are scored while training where answers are written token by token; all of them at the end."""


@dataclass(frozen=True)
class Scores:
    """A split's metrics (the primary first, the loss last), their 95 % intervals, and details such as `by_label`.

    `table` [rows, K + 2] is what they are made of: each row's statistics, its Σ CE and the count of its predictions.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    details: dict[str, Any]
    table: np.ndarray = field(repr=False, compare=False)


@torch.inference_mode()
def predict(
    model: Any,
    task: Task,
    encoded: Sequence[Sequence[Example]],
    *,
    batch_size: int = 64,
    device: str = "cpu",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Prediction]:
    """The model's answer to each row, in their order; eval mode, restored afterwards.

    `encoded` holds the examples of each row. `progress` is called with the number of examples of each finished batch.
    """
    ask = partial(task.predict, model, device=device, autocast=autocast)
    with in_eval_mode(model):
        return answers(task, encoded, ask, batch_size=batch_size, progress=progress)


def answers(
    task: Task,
    encoded: Sequence[Sequence[Example]],
    ask: Callable[[list[Example]], Sequence[Prediction]],
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Prediction]:
    """The answer to each row, in their order, of whoever `ask` puts a batch of examples to."""
    each = iter(in_batches([e for row in encoded for e in row], ask, batch_size=batch_size, progress=progress))
    return [task.combine([next(each) for _ in row]) for row in encoded]


def in_batches(
    examples: Sequence[Example],
    ask: Callable[[list[Example]], Sequence[T]],
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda done: None,
) -> list[T]:
    """What `ask` answers to each example, in their order; it is asked for batches of examples of similar length."""
    answers: dict[int, T] = {}
    for places in by_length(examples, batch_size):
        answers |= zip(places, ask([examples[i] for i in places]), strict=True)
        progress(len(places))
    return [answers[place] for place in range(len(examples))]


def score(
    task: Task,
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    *,
    intervals: bool = True,
    clusters: str | None = None,
) -> Scores:
    """Metrics of labelled rows, with percentile-bootstrap intervals over rows (no training noise is in them).

    `clusters` names a column: the rows of one value of it are drawn together.
    """
    statistics = task.statistics([p.value for p in predictions], [task.gold(row) for row in rows])
    losses = np.array([[p.loss, p.count] for p in predictions])
    table = np.concatenate([statistics, losses], axis=1)
    return scores_of(task, table, intervals=intervals, clusters=numbers_of(rows, clusters))


def table_of(task: Task, lines: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """A `Scores.table` [rows, K + 2], made again of the lines of a prediction file; NaN where a file has no losses."""
    statistics = task.statistics([line["prediction"] for line in lines], [line["gold"] for line in lines])
    losses = np.array([[line.get("loss", np.nan), line.get("predictions", np.nan)] for line in lines])
    return np.concatenate([statistics, losses], axis=1)


def scores_of(task: Task, table: np.ndarray, *, intervals: bool = True, clusters: np.ndarray | None = None) -> Scores:
    """The same of a `Scores.table`, or of some of its rows; K = 0 leaves the loss alone. `clusters` [rows] or None."""
    sums = table.sum(0)
    metrics = {name: float(value) for name, value in metrics_of(task, sums).items()}
    ranges: dict[str, tuple[float, float]] = {}
    if intervals:
        drawn = metrics_of(task, bootstrap(table, clusters=clusters))
        ranges = {name: interval(values) for name, values in drawn.items()}
    return Scores(metrics, ranges, task.details(sums[:-2]) if table.shape[1] > 2 else {}, table)


def gain(
    task: Task, ours: np.ndarray, theirs: np.ndarray, metric: str, clusters: np.ndarray | None = None
) -> tuple[float, float]:
    """The 95 % interval of how much better `ours` is than `theirs`, in the metric's unit; below 0 it is worse."""
    drawn = differences(task, ours, theirs, clusters)[metric]
    return interval(-drawn if metric in task.lower_is_better else drawn)


def differences(
    task: Task, ours: np.ndarray, theirs: np.ndarray, clusters: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Each metric of `ours` minus that of `theirs`, for each draw of the bootstrap: {name: [resamples]}.

    Both are tables [rows, K + 2] of the same rows, and each draw takes the same rows of both: what is hard for both
    does not widen an interval.
    """
    drawn = bootstrap(np.concatenate([ours, theirs], axis=1), clusters=clusters)
    a, b = (metrics_of(task, part) for part in np.split(drawn, [ours.shape[1]], axis=1))
    return {name: a[name] - b[name] for name in a}


def numbers_of(rows: Sequence[Row], column: str | None) -> np.ndarray | None:
    """The cluster of each row, as a number [rows]; a row without a value is one of its own. None where all are."""
    if column is None:
        return None
    return clusters_of([cluster_of(row, column) for row in rows])


def cluster_of(row: Row, column: str) -> str | None:
    """A row's value in the column of clusters, as text; None where it has none."""
    value = row.fields.get(column)
    return None if value is None else str(value)


def clusters_of(names: Sequence[str | None]) -> np.ndarray | None:
    """A number for each name, [rows], None being a name of its own each time; None where all are None."""
    if all(name is None for name in names):
        return None
    own = [f"{i}" if name is None else f"= {name}" for i, name in enumerate(names)]
    return np.unique(own, return_inverse=True)[1]


def metrics_of(task: Task, sums: np.ndarray) -> dict[str, np.ndarray]:
    """The task's metrics in its order, and the loss; from summed statistics, losses and counts [..., K + 2]."""
    loss = sums[..., -2] / np.maximum(sums[..., -1], 1e-12)
    values = {"loss": loss, "perplexity": np.exp(np.minimum(loss, 700.0))}
    if sums.shape[-1] > 2:
        values = task.scores(sums[..., :-2]) | values
    return {name: values[name] for name in dict.fromkeys([*task.metrics, "loss"]) if name in values}


def subset(rows: int, limit: int | None) -> list[int]:
    """The places of at most `limit` of so many rows, in order; always the same, torch's random state untouched."""
    drawn = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    return sorted(drawn[: limit or rows].tolist())


def bootstrap(
    statistics: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, clusters: np.ndarray | None = None
) -> np.ndarray:
    """Statistics [rows, K], summed over `resamples` draws of as many rows with replacement: [resamples, K].

    Source: Efron 1979. One matrix product: how often each row was drawn, times the statistics. `clusters` [rows] gives
    each row's cluster: whole clusters are drawn, as many as there are.
    """
    statistics = summed(statistics, clusters)
    rows = len(statistics)
    drawn = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=resamples)
    return drawn.astype(np.float64) @ statistics


def summed(statistics: np.ndarray, clusters: np.ndarray | None) -> np.ndarray:
    """What is drawn together: the rows' statistics, or their sums over each cluster."""
    if clusters is None:
        return statistics
    sums = np.zeros((clusters.max() + 1, statistics.shape[1]))
    np.add.at(sums, clusters, statistics)
    return sums


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the draws."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def prediction_rows(
    task: Task,
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    *,
    labelled: bool = True,
    clusters: str | None = None,
) -> list[dict[str, Any]]:
    """One JSON object a row for the run folder's `predictions/`: key, row, prediction, gold, score, probabilities.

    `loss` is the row's Σ CE in nats and `predictions` their number, so that all metrics can be made of a file again
    (`table_of`). And `cluster`, the row's value in the column `clusters`, where there is such a column.
    """
    table = []
    for prediction, row in zip(predictions, rows, strict=True):
        line: dict[str, Any] = {"key": row.key, "row": row.line, "prediction": prediction.value}
        if labelled:
            gold = task.gold(row)
            line |= {"gold": gold, "score": task.row_score(prediction.value, gold)}
            line |= {"loss": float(prediction.loss), "predictions": float(prediction.count)}
        if prediction.probabilities is not None:
            line["probabilities"] = dict(prediction.probabilities)
        if clusters is not None and (cluster := cluster_of(row, clusters)) is not None:
            line["cluster"] = cluster
        table.append(line)
    return table
