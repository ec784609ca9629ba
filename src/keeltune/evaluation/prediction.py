"""A trained model's answers to rows, and the lines of a predictions file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from keeltune.data.clusters import cluster_of
from keeltune.data.dataset import Row
from keeltune.tasks.common.batches import Size, answers, rows_at_once
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.task import Task
from keeltune.utils.device import in_eval_mode


@torch.inference_mode()
def predict(
    model: Any,
    task: Task,
    encoded: Sequence[Sequence[Example]],
    *,
    batch_size: Size | None = None,
    device: str = "cpu",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Prediction]:
    """The model's answer to each row, in their order; eval mode, restored afterwards.

    `encoded` holds the examples of each row. `progress` is called with the number of examples of each finished batch.
    `batch_size`: by default more rows at once where short texts are written.
    """
    batch_size = batch_size or partial(rows_at_once, task.settings, task.generates)
    predict_batch = partial(task.predict, model, device=device, autocast=autocast)
    with in_eval_mode(model):
        return answers(task, encoded, predict_batch, batch_size=batch_size, progress=progress)


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
    (`table_of`). And `cluster`, the row's value in the column `clusters`, where there is such a column; `cut`, true, of
    an answer that was written to the most tokens without coming to its end.
    """
    table = []
    for prediction, row in zip(predictions, rows, strict=True):
        line: dict[str, Any] = {"key": row.key, "row": row.line, "prediction": prediction.value}
        if labelled:
            gold = task.gold(row)
            line |= {"gold": gold, "score": task.row_score(prediction.value, gold)}
            line |= {"loss": float(prediction.loss), "predictions": float(prediction.count)}
        if prediction.cut:
            line["cut"] = True
        if prediction.probabilities is not None:
            line["probabilities"] = dict(prediction.probabilities)
        if clusters is not None and (cluster := cluster_of(row, clusters)) is not None:
            line["cluster"] = cluster
        table.append(line)
    return table
