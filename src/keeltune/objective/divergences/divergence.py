"""The contract of a divergence, and the two sums that all of them are made of.

A divergence is a function `name(student, reference, *, parameter=default)`. Both arguments are log-probabilities
[N, C] of one dtype, which is kept (the objective upcasts half precision before it calls); the result is [N], in nats.
It is ≥ 0, and 0 where the two agree. A choice impossible for both (−inf, −inf: a padded span) adds 0, never NaN.
Its docstring has the formula, and after `Source: ` where it comes from.
Each file is at once a valid `objective.divergence`; `tests/contract/test_contract.py` holds every one to this page.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Divergence(Protocol):
    """`name(student, reference, **parameters)`: log-probabilities [N, C] each -> [N] nats, ≥ 0."""

    def __call__(self, student: Tensor, reference: Tensor, /, **parameters: float) -> Tensor: ...


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a ‖ b) = Σ a · (log a − log b): [N, C], [N, C] -> [N] nats.

    A choice with a = 0 adds 0; one with a > 0 and b = 0 makes the divergence infinite, as it is. What rounding takes
    below zero is returned as 0; the gradient is left alone, as a clamp would cut it off just where it is small.
    """
    log_ratio = (log_a - log_b).masked_fill(log_a == -torch.inf, 0.0)
    value = (log_a.exp() * log_ratio).sum(-1)
    return torch.where(value < 0, value - value.detach(), value)


def mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """log(share · a + (1 − share) · b), [N, C], for 0 < share < 1.

    Where both are impossible the mixture is too; those choices are filled before `logaddexp`, whose gradient at
    (−inf, −inf) is NaN, and emptied after it.
    """
    a, b = log_a + math.log(share), log_b + math.log1p(-share)
    impossible = (log_a == -torch.inf) & (log_b == -torch.inf)
    mixed = torch.logaddexp(a.masked_fill(impossible, 0.0), b.masked_fill(impossible, 0.0))
    return mixed.masked_fill(impossible, -torch.inf)
