from __future__ import annotations

import torch
from torch import Tensor


def logit_mse(student: Tensor, reference: Tensor) -> Tensor:
    """1/(2C) Σ (zₚ − z_q)², z the logits centred at mean 0: what T² · KL at temperature T becomes for T → ∞.

    Centred log-probabilities are the centred logits, as the two differ by a constant. A choice impossible for both
    is left out of C. Not for coarse references: the tail of a top-k has no logit.

    Args: log-probabilities `student`, `reference` [N, C]. Returns [N] (squared nats).
    Source: Hinton et al. 2015, section 2.1, https://arxiv.org/abs/1503.02531.
    """
    impossible = (student == -torch.inf) & (reference == -torch.inf)
    possible = (~impossible).sum(-1, keepdim=True).clamp_min(1)
    difference = (student - reference).masked_fill(impossible, 0.0)
    centred = (difference - difference.sum(-1, keepdim=True) / possible).masked_fill(impossible, 0.0)
    return centred.square().sum(-1) / (2 * possible.squeeze(-1))
