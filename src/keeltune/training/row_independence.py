"""Whether a model answers a row alike alone and beside others: else a step depends on how it is cut, a score on chance.

Block-sparse attention turns whole in a short batch, experts of a fixed capacity drop tokens of a full one, hashes are
drawn anew each time. No architecture is known by name here: a few rows are asked both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keeltune.objective.predictions import Rows
from keeltune.tasks.common.batches import to_device
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.stored_examples import lengths_of
from keeltune.tasks.task import Task

ROWS, PREDICTIONS = 4, 8
"""How many examples are asked both ways, and the predictions of each that are compared."""

TOLERANCE = 2e-4
"""Of log-probabilities, relative to their size, above which it is no rounding: products of other shapes are summed in
other orders. Measured on 18 architectures in float32: below 1e-6 where rows are independent, else from 1e-3 (ConvBERT,
whose convolutions reach into the padding) to 0.9 (FNet, which knows no mask)."""


@torch.no_grad()
def dependence(
    rows_of: Callable[[Mapping[str, Any]], Rows], task: Task, examples: Sequence[Example], device: str
) -> float:
    """The largest difference between log P of an example alone and in a padded batch, relative to their size.

    `rows_of` makes the predictions of a batch, in eval mode.
    """
    chosen = _of_several_lengths(examples, [i for i, example in enumerate(examples) if example.predictions])
    if len(chosen) < 2:
        return 0.0
    batch = to_device(task.collate(chosen), device)
    with torch.backends.cudnn.flags(allow_tf32=False):
        together, start, worst = rows_of(batch), 0, 0.0
        for example, count in zip(chosen, batch["counts"].tolist(), strict=True):
            alone, n = rows_of(to_device(task.collate([example]), device)), min(count, PREDICTIONS)
            worst = max(worst, _difference(together.log_probs(slice(start, start + n)), alone.log_probs(slice(0, n))))
            start += count
    return worst


def _of_several_lengths(examples: Sequence[Example], indices: Sequence[int]) -> list[Example]:
    """A few of the examples at these indices, from the shortest to the longest."""
    chosen = np.array(indices, dtype=np.int64)
    order = chosen[lengths_of(examples)[chosen].argsort(kind="stable")]
    places = torch.linspace(0, len(order) - 1, min(ROWS, len(order))).round().int().tolist()
    return [examples[order[place]] for place in places]


def _difference(together: Tensor, alone: Tensor) -> float:
    """Of log-probabilities [n, C]; of positions, a batch has those of its longest row."""
    width = min(together.shape[-1], alone.shape[-1])
    a, b = together[:, :width].float(), alone[:, :width].float()
    possible = ~(torch.isneginf(a) & torch.isneginf(b))
    if not possible.any():
        return 0.0
    return float((a - b)[possible].abs().max() / b[possible & torch.isfinite(b)].abs().max().clamp_min(1.0))
