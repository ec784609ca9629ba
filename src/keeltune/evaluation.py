"""Predict, score, and say how sure: the same path for validation while training, for test sets and for the command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from keeltune.batching import by_length
from keeltune.data import Row
from keeltune.machine import in_eval_mode
from keeltune.tasks.task import Example, Prediction, Task

RESAMPLES = 1000


@dataclass(frozen=True)
class Scores:
    """A split's metrics (the primary first, the loss last), their 95 % intervals, and details such as `by_label`."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    details: dict[str, Any]


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
    ask: Callable[[Sequence[Example]], Sequence[Prediction]],
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Prediction]:
    """The answer to each row, in their order, of whoever `ask` puts a batch of examples to."""
    examples = [example for row in encoded for example in row]
    found: dict[int, Prediction] = {}
    for places in by_length(examples, batch_size):
        found |= dict(zip(places, ask([examples[i] for i in places]), strict=True))
        progress(len(places))
    each = iter(found[i] for i in range(len(examples)))
    return [task.combine([next(each) for _ in row]) for row in encoded]


def score(task: Task, predictions: Sequence[Prediction], rows: Sequence[Row], *, intervals: bool = True) -> Scores:
    """Metrics of labelled rows, with percentile-bootstrap intervals over rows (no training noise is in them)."""
    statistics = task.statistics([p.value for p in predictions], [task.gold(row) for row in rows])
    losses = np.array([[p.loss, p.count] for p in predictions])
    sums = statistics.sum(0)
    metrics = {name: float(value) for name, value in _metrics(task, sums, losses.sum(0)).items()}
    ranges: dict[str, tuple[float, float]] = {}
    if intervals:
        resampled = bootstrap(np.concatenate([statistics, losses], axis=1))
        samples = _metrics(task, resampled[:, :-2], resampled[:, -2:])
        ranges = {name: _interval(values) for name, values in samples.items()}
    return Scores(metrics, ranges, task.details(sums))


def _metrics(task: Task, sums: np.ndarray, losses: np.ndarray) -> dict[str, np.ndarray]:
    """The task's metrics in its order, and the loss; from summed statistics [..., K] and losses and counts [..., 2]."""
    loss = losses[..., 0] / np.maximum(losses[..., 1], 1e-12)
    values = task.scores(sums) | {"loss": loss, "perplexity": np.exp(np.minimum(loss, 700.0))}
    return {name: values[name] for name in dict.fromkeys([*task.metrics, "loss"])}


def bootstrap(statistics: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Statistics [rows, K], summed over `resamples` draws of as many rows with replacement: [resamples, K].

    Source: Efron 1979. One matrix product: how often each row was drawn, times the statistics.
    """
    rows = len(statistics)
    drawn = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=resamples)
    return drawn.astype(np.float64) @ statistics


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def prediction_rows(
    task: Task, predictions: Sequence[Prediction], rows: Sequence[Row], *, labelled: bool = True
) -> list[dict[str, Any]]:
    """One JSON object a row for the run folder's `predictions/`: key, row, prediction, gold, score, probabilities."""
    table = []
    for prediction, row in zip(predictions, rows, strict=True):
        line: dict[str, Any] = {"key": row.key, "row": row.line, "prediction": prediction.value}
        if labelled:
            gold = task.gold(row)
            line |= {"gold": gold, "score": task.row_score(prediction.value, gold)}
        if prediction.probabilities is not None:
            line["probabilities"] = dict(prediction.probabilities)
        table.append(line)
    return table
