from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from keeltune.objective.predictions import IGNORED
from keeltune.tasks.metrics._whole import Whole

BINS = 15


class ExpectedCalibrationError(Whole):
    """The expected calibration error (`expected_error`) of a label's probabilities, 0 to 1.

    Of several labels a row each is a choice of yes and no. Statistics are those of `Whole`: a bin's edges are of all
    rows.
    """

    names = ("ece",)
    answers = "probabilities"
    higher_is_better = False
    library = "the formula, in float64; 15 bins of equally many predictions"

    def whole(self, values: Sequence[Any], golds: Sequence[Any]) -> Mapping[str, float]:
        """`values`: {label: probability} of each row."""
        return {"ece": expected_error(*predictions_of(values, golds)) if len(golds) else 0.0}


def predictions_of(probabilities: Sequence[Mapping[str, float]], golds: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N, C] and targets [N] of rows' {label: probability} and right labels, a list of several."""
    table = torch.tensor([list(row.values()) for row in probabilities], dtype=torch.float64)
    names = list(probabilities[0])
    if isinstance(golds[0], list):
        targets = torch.tensor([name in gold for gold in golds for name in names]).long()
        table = torch.stack([1 - table, table], -1).flatten(0, 1)
    else:
        targets = torch.tensor([names.index(gold) for gold in golds])
    return table.clamp_min(1e-38).log(), targets


def expected_error(log_probs: Tensor, targets: Tensor, bins: int = BINS) -> float:
    """Expected calibration error, Σ_b n_b / N · |accuracy_b − mean confidence_b|, from 0 to 1.

    Confidence is the probability of the likeliest choice. The bins hold equally many predictions (± 1), in the order of
    their confidence; equal confidences count as right as often as they are together, so that the order of rows is
    nothing. Sampling alone makes it positive: about 0.4 sqrt(bins / N) where half of the answers are right.
    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599; equal mass: Nguyen, O'Connor 2015.
    """
    log_probs, targets = labelled(log_probs, targets)
    top = log_probs.max(-1)
    return error_of(top.values.exp(), bins)(top.indices == targets)


def error_of(confidence: Tensor, bins: int = BINS) -> Callable[[Tensor], float]:
    """`expected_error` of predictions of these confidences [N], as a function of which of them are right [N]."""
    _, group, sizes = confidence.unique(return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)
    parts = torch.arange(len(confidence)).tensor_split(min(bins, max(1, len(confidence))))
    bin_of = torch.empty_like(order)
    bin_of[order] = torch.cat([torch.full_like(part, number) for number, part in enumerate(parts)])

    def error(right: Tensor) -> float:
        share = (torch.zeros_like(sizes, dtype=torch.float64).index_add(0, group, right.double()) / sizes)[group]
        gaps = torch.zeros(len(parts), dtype=torch.float64).index_add(0, bin_of, share - confidence)
        return gaps.abs().sum().item() / max(1, len(confidence))

    return error


def labelled(log_probs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The predictions that have a label, in float64."""
    known = targets != IGNORED
    return log_probs[known].double(), targets[known]
