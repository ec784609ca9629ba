"""What regularisers add to the loss of labelled predictions: a sum, to be divided by the step's n_CE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from keeltune.objective.predictions import IGNORED, Rows, slices
from keeltune.training.regularizers.label_smoothing import label_smoothing
from keeltune.training.regularizers.r_drop import r_drop


def added(
    passes: Sequence[Rows], targets: Tensor, weights: Tensor, *, smoothing: float | None, drop: float | None
) -> Tensor:
    """Σ w · (smoothing's term, a mean over the passes, + R-Drop's, of two) over labelled predictions: a scalar in nats.

    `passes` hold the same N predictions each; `targets`, `weights` [N] as in cross-entropy, since n_CE is the sum of
    the weights. A slice is read again in the backward pass, so that [N, C] need not exist at once.
    """

    def of_slice(part: slice) -> Tensor:
        labelled = targets[part] != IGNORED
        log_probs = [rows.log_probs(part)[labelled] for rows in passes]
        values = []
        if smoothing is not None:
            labels = targets[part][labelled]
            values += [label_smoothing(each, labels, smoothing) / len(passes) for each in log_probs]
        if drop is not None and len(passes) > 1:
            values.append(r_drop(log_probs[0], log_probs[1], drop))
        return (torch.stack(values).sum(0) * weights[part][labelled]).sum()

    sums: list[Tensor] = [checkpoint(of_slice, part, use_reentrant=False) for part in slices(passes[0])]
    return torch.stack(sums).sum()
