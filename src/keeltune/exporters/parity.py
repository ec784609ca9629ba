"""Whether an exported model answers as the one that it was made of, on rows of the run.

    logits        the largest absolute difference at places that are no padding
    predictions   the share of rows with the same answer; of numbers there is none
    metrics       each before and after, and the 95 % interval of their difference: one bootstrap draws rows of both
    speed         rows a second on one thread, one row after the other, by the processor's own time

`onnx` is equal where logits differ by rounding and every prediction is the same. `int8` is equal where the loss that
the interval leaves possible, of the primary metric, is small.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from keeltune.data.clusters import numbers_of
from keeltune.data.dataset import Row
from keeltune.evaluation import bootstrap
from keeltune.evaluation.scores import Scores, differences, gain, score
from keeltune.exporters.graph import tokens_of
from keeltune.tasks.common.batches import answers
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.padding_effect import OUTPUTS
from keeltune.tasks.metrics import scale_of
from keeltune.tasks.task import Task
from keeltune.utils.device import in_eval_mode

LOGITS = 1e-4
"""How far logits of float32 may lie apart. Measured: 4.4e-6 at most, over nine models of eight architectures."""

LOSS = 0.02
"""How much of a perfect score the loss may be that the 95 % interval leaves possible (of a metric without a perfect
score: of its value)."""

ROWS = 500
"""Rows that are compared at most: where 2 of 100 change, 200 rows leave a loss of 0.02 possible, 500 one of 0.012."""

TIMED = 64
"""Rows that are timed at most, and `SECONDS` of the slower one."""

SECONDS = 5.0

BATCH = 16


@dataclass
class Side:
    """One of the two models: its answers to the rows, what its head said of each batch, its score."""

    model: Any
    outputs: list[Any] = field(default_factory=list)
    answers: list[Prediction] = field(default_factory=list)
    scores: Scores | None = None


@torch.inference_mode()
def measured(
    task: Task,
    model: Any,
    exported: Any,
    encoded: Sequence[Sequence[Example]],
    rows: Sequence[Row],
    clusters: str | None,
) -> dict[str, Any]:
    """What two models answer to the same labelled rows: {"rows", "logits", "predictions", "answers": how many
    different ones the first gives, "metric": the primary one, "metrics", "rows_per_second"}."""
    first, second = Side(model), Side(exported)
    masks: list[Any] = []
    for side in (first, second):
        with in_eval_mode(side.model):
            side.answers = answers(task, encoded, partial(_asked, task, side, masks), batch_size=BATCH)
        side.scores = score(task, side.answers, rows, clusters=clusters)
    logits = max(_difference(a, b, mask) for a, b, mask in zip(first.outputs, second.outputs, masks, strict=True))
    same = [a.value == b.value for a, b in zip(first.answers, second.answers, strict=True)]
    return {
        "rows": len(rows),
        "logits": logits,
        "predictions": None if task.choices == "numbers" else sum(same) / len(same),
        "answers": len({repr(answer.value) for answer in first.answers}),
        "metric": task.metrics[0],
        "metrics": metrics(task, first, second, numbers_of(rows, clusters)),
        "rows_per_second": speeds(
            task.forward, first, second, [task.collate([e]) for e in islice(chain.from_iterable(encoded), TIMED)]
        ),
    }


def faults(measure: Mapping[str, Any], to: str) -> list[str]:
    """Why what was measured is not equal, in words; empty where it is."""
    if to == "onnx":
        found = (
            [] if measure["logits"] <= LOGITS else [f"logits differ by {measure['logits']:.2g}, by {LOGITS:g} at most"]
        )
        share = measure["predictions"]
        return found + ([f"{share:.2%} of the predictions are the same, not all"] if share not in (None, 1.0) else [])
    name = measure["metric"]
    metric = measure["metrics"][name]
    scale = scale_of(name)
    allowed = LOSS * (abs(metric["torch"]) if scale is None else scale)
    worst = metric["gain"][0]
    if worst >= -allowed:
        return []
    return [f"{name} may have lost {-worst:.4f} (95 % interval over {measure['rows']} rows), {allowed:.4g} at most"]


def is_hollow(measure: Mapping[str, Any]) -> bool:
    """Whether the model itself has nothing that an export could lose: one answer to every row, or none right."""
    name = measure["metric"]
    return measure["answers"] == 1 or (scale_of(name) is not None and measure["metrics"][name]["torch"] == 0)


def _asked(task: Task, side: Side, masks: list[Any], examples: list[Example]) -> list[Prediction]:
    """A batch's answers; what they were read off is kept."""
    batch = task.collate(examples)
    outputs = task.forward(side.model, batch)
    side.outputs.append(outputs)
    if len(side.outputs) > len(masks):
        masks.append(tokens_of(batch["inputs"]))
    return task.decode(task.rows(outputs, batch), batch)


def _difference(a: Any, b: Any, mask: Any) -> float:
    """The largest absolute difference; `mask` [B, S] of what is no padding, for outputs that have a place a token:
    logits [B, S, C] and those of an answer's ends [B, S]. Logits of a row [B, C] have none, and C may be S."""
    worst = 0.0
    for name in (name for name in OUTPUTS if getattr(a, name, None) is not None):
        x, y = getattr(a, name).float(), getattr(b, name).float()
        apart = (x - y).abs()
        if apart.dim() == 3 or name != "logits":
            apart = apart[mask]
        worst = max(worst, float(apart.max().nan_to_num(nan=torch.inf)))
    return worst


def metrics(task: Task, first: Side, second: Side, clusters: np.ndarray | None) -> dict[str, Any]:
    """Each score of both sides, their difference with its 95 % interval, and that of what is gained."""
    assert first.scores is not None and second.scores is not None
    a, b = first.scores, second.scores
    drawn = differences(task, b.table, a.table, clusters)
    return {
        name: {
            "torch": a.metrics[name],
            "exported": b.metrics[name],
            "difference": b.metrics[name] - a.metrics[name],
            "interval": list(bootstrap.interval(drawn[name])),
            "gain": list(gain(task, b.table, a.table, name, clusters)),
        }
        for name in a.metrics
        if name in drawn
    }


def speeds(run: Callable[[Any, Any], object], first: Side, second: Side, asked: Sequence[Any]) -> dict[str, float]:
    """Rows a second of both, `run(model, row)`, in turns, so that what else the machine does is shared."""
    spent, done = [0.0, 0.0], 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for row in [asked[0], *asked]:
            taken = [_seconds(run, side.model, row) for side in (first, second)]
            if done:  # the first is asked twice: it pays for what is done once
                spent = [total + seconds for total, seconds in zip(spent, taken, strict=True)]
            done += 1
            if max(spent) > SECONDS:
                break
    finally:
        torch.set_num_threads(threads)
    return {name: (done - 1) / max(total, 1e-9) for name, total in zip(("torch", "exported"), spent, strict=True)}


def _seconds(run: Callable[[Any, Any], object], model: Any, row: Any) -> float:
    begun = time.process_time()
    with in_eval_mode(model):
        run(model, row)
    return time.process_time() - begun
