"""Whether an exported model writes as the one that it was made of: each row asked of both, by itself.

    logits        the largest absolute difference behind the tokens of the right answers, each behind the right ones
    predictions   the share of texts that are the same, token for token
    speed         texts a second

All else as `parity.py` says. Of a CTC model logits are of frames, and a text is what its frames spell.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from keeltune.data.clusters import numbers_of
from keeltune.data.dataset import Row
from keeltune.evaluation.scores import score
from keeltune.exporters.parity import TIMED, Side, metrics, speeds
from keeltune.objective.predictions import Dense
from keeltune.tasks.common import lm_head
from keeltune.tasks.common.batches import answers
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.families.text_generation import TextGeneration
from keeltune.utils.device import in_eval_mode

ROWS = 100
"""Rows that are compared at most: each is written twice, on the processor."""

WHOLE = 10**15
"""Numbers of [N, V] from which a head is applied in slices: here never, as logits are looked at."""


@torch.inference_mode()
def measured(
    task: TextGeneration,
    model: Any,
    exported: Any,
    encoded: Sequence[Sequence[Example]],
    rows: Sequence[Row],
    clusters: str | None,
) -> dict[str, Any]:
    """As `parity.measured`."""
    first, second = Side(model), Side(exported)
    for side in (first, second):
        with in_eval_mode(side.model):
            side.answers = answers(task, encoded, partial(_asked, task, side), batch_size=1)
        side.scores = score(task, side.answers, rows, clusters=clusters)
    same = [a == b for a, b in zip(first.outputs, second.outputs, strict=True)]
    examples = [example for row in encoded for example in row]
    return {
        "rows": len(rows),
        "logits": max((_difference(task, model, exported, example) for example in examples), default=0.0),
        "predictions": sum(same) / len(same),
        "answers": len({answer.value for answer in first.answers}),
        "metric": task.metrics[0],
        "metrics": metrics(task, first, second, numbers_of(rows, clusters)),
        "rows_per_second": speeds(partial(_write, task), first, second, examples[:TIMED]),
    }


def _asked(task: TextGeneration, side: Side, examples: list[Example]) -> list[Prediction]:
    """A row's answer; the tokens that it was written in are kept."""
    found = task.predict(side.model, examples)
    side.outputs += [list(one.ids) if one.ids is not None else one.value for one in found]
    return found


def _difference(task: TextGeneration, model: Any, exported: Any, example: Example) -> float:
    """Of one example; 0 where it predicts nothing, as a recording in parts."""
    if not example.predictions:
        return 0.0
    batch = task.collate([example])
    said = []
    for one in (model, exported):
        with in_eval_mode(one), lm_head.sliced_from(WHOLE):
            rows = task.rows(task.forward(one, batch), batch)
        assert isinstance(rows, Dense)
        said.append(rows.logits.float())
    return float((said[0] - said[1]).abs().max().nan_to_num(nan=torch.inf))


def _write(task: TextGeneration, model: Any, example: Example) -> None:
    task.candidates(model, [example], "cpu")
