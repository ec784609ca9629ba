"""Predict, score, and say how sure: the same path for validation while training, for test sets and for the command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from keeltune.batching import by_length
from keeltune.data import Row
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
    examples: Sequence[Example],
    *,
    batch_size: int = 64,
    device: str = "cpu",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Prediction]:
    """The model's answer to each example, in their order; eval mode, restored afterwards.

    `progress` is called with the number of examples of each batch that is done.
    """
    answers: list[Prediction | None] = [None] * len(examples)
    training = model.training
    model.eval()
    try:
        for places in by_length(examples, batch_size):
            batch = to_device(task.collate([examples[i] for i in places]), device)
            with autocast():
                outputs = model(**batch["inputs"])
            for place, answer in zip(places, task.decode(task.rows(outputs, batch), batch), strict=True):
                answers[place] = answer
            progress(len(places))
    finally:
        model.train(training)
    return [answer for answer in answers if answer is not None]


def score(task: Task, predictions: Sequence[Prediction], rows: Sequence[Row], *, intervals: bool = True) -> Scores:
    """Metrics of labelled rows, with percentile-bootstrap intervals over rows (no training noise is in them)."""
    statistics = task.statistics([p.value for p in predictions], [task.gold(row) for row in rows])
    losses = np.array([[p.loss, p.count] for p in predictions])
    sums = statistics.sum(0)
    metrics = {name: float(value) for name, value in task.scores(sums).items()}
    metrics["loss"] = float(losses[:, 0].sum() / max(losses[:, 1].sum(), 1e-12))
    ranges: dict[str, tuple[float, float]] = {}
    if intervals:
        resampled = bootstrap(np.concatenate([statistics, losses], axis=1))
        samples = task.scores(resampled[:, :-2])
        samples["loss"] = resampled[:, -2] / np.maximum(resampled[:, -1], 1e-12)
        ranges = {name: _interval(values) for name, values in samples.items()}
    return Scores(metrics, ranges, task.details(sums))


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


def to_device(batch: Mapping[str, Any], device: str | torch.device) -> dict[str, Any]:
    """A batch with its tensors, also the nested ones, on `device`."""
    moved: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, Mapping):
            moved[name] = to_device(value, device)
        else:
            moved[name] = value.to(device) if isinstance(value, torch.Tensor) else value
    return moved


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
