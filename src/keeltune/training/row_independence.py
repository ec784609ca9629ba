"""Whether a model answers a row alike alone and beside others: else a step depends on how it is cut, a score on chance.

Block-sparse attention turns whole in a short batch, experts of a fixed capacity drop tokens of a full one, hashes are
drawn anew each time. No architecture is known by name here: a few rows are asked both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from keeltune.objective.predictions import Rows
from keeltune.tasks.common.batches import to_device
from keeltune.tasks.common.example import Example
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
    chosen = _of_several_lengths([example for example in examples if example.predictions])
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


def _of_several_lengths(examples: Sequence[Example]) -> list[Example]:
    """A few examples, from the shortest to the longest."""
    ordered = sorted(examples, key=lambda example: example.length)
    places = torch.linspace(0, len(ordered) - 1, min(ROWS, len(ordered))).round().int().tolist()
    return [ordered[place] for place in places]


def _difference(together: Tensor, alone: Tensor) -> float:
    """Of log-probabilities [n, C]; of positions, a batch has those of its longest row."""
    width = min(together.shape[-1], alone.shape[-1])
    a, b = together[:, :width].float(), alone[:, :width].float()
    possible = ~(torch.isneginf(a) & torch.isneginf(b))
    if not possible.any():
        return 0.0
    return float((a - b)[possible].abs().max() / b[possible & torch.isfinite(b)].abs().max().clamp_min(1.0))
