"""The divergences of `keeltune.objective.divergences` in `keras.ops`: the same names, values and gradients.

Each is a function `name(student, reference, *, parameter=default)` of log-probabilities [..., C] of one dtype, which is
kept, and gives [...] in nats: ≥ 0, and 0 where the two agree. A choice impossible for both (−inf, −inf) adds 0, never
NaN. Formulas, bounds and sources stand in the files of that folder.

Here p is the student and q the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from keras import ops

from keeltune.utils import registry

Tensor = Any
"""A tensor of Keras' backend."""

IMPOSSIBLE = -math.inf


def forward_kl(student: Tensor, reference: Tensor) -> Tensor:
    """KL(q ‖ p) = Σ q · log(q / p): Hinton's distillation."""
    return _kl(reference, student)


def jensen_shannon(student: Tensor, reference: Tensor, *, beta: float = 0.5) -> Tensor:
    """[β KL(q ‖ m) + (1 − β) KL(p ‖ m)] / (β (1 − β)), m = β q + (1 − β) p; forward KL at β = 0, reverse at 1."""
    if beta == 0:
        return _kl(reference, student)
    if beta == 1:
        return _kl(student, reference)
    middle = _mixture(reference, student, beta)
    return _kl(reference, middle) / (1 - beta) + _kl(student, middle) / beta


def logit_mse(student: Tensor, reference: Tensor) -> Tensor:
    """1/(2C) Σ (zₚ − z_q)², z the logits centred at mean 0: T² · KL for T → ∞. Not for coarse references."""
    impossible = _both_impossible(student, reference)
    zero, one = ops.zeros_like(student), ops.ones_like(student)
    counted = ops.sum(ops.where(impossible, zero, one), axis=-1, keepdims=True)
    possible = ops.maximum(counted, one[..., :1])
    difference = ops.where(impossible, zero, student - reference)
    mean = ops.sum(difference, axis=-1, keepdims=True) / possible
    centred = ops.where(impossible, zero, difference - mean)
    return ops.sum(ops.square(centred), axis=-1) / (2 * possible[..., 0])


def reverse_kl(student: Tensor, reference: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ p · log(p / q): keeltune's formula."""
    return _kl(student, reference)


def skewed_kl(student: Tensor, reference: Tensor, *, a: float = 0.1) -> Tensor:
    """KL(q ‖ a q + (1 − a) p), at most log(1/a)."""
    return _kl(reference, _mixture(reference, student, a))


def skewed_reverse_kl(student: Tensor, reference: Tensor, *, a: float = 0.1) -> Tensor:
    """KL(p ‖ (1 − a) q + a p), at most log(1/a)."""
    return _kl(student, _mixture(student, reference, a))


def total_variation(student: Tensor, reference: Tensor) -> Tensor:
    """½ Σ |p − q|, without a unit. At temperature 1 only."""
    return 0.5 * ops.sum(ops.abs(ops.exp(student) - ops.exp(reference)), axis=-1)


def find(name: str, **parameters: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The divergence of a recipe's name, such as `reverse-kl`, with its parameters bound. Raises LookupError."""
    if reason := registry.check("divergences", name):
        raise LookupError(reason)
    return partial(globals()[name.replace("-", "_")], **parameters)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a ‖ b) = Σ a · (log a − log b). What rounding takes below zero is 0, its gradient left alone."""
    log_ratio = ops.where(log_a == IMPOSSIBLE, ops.zeros_like(log_a), log_a - log_b)
    value = ops.sum(ops.exp(log_a) * log_ratio, axis=-1)
    return ops.where(value < 0, value - ops.stop_gradient(value), value)


def _mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """log(share · a + (1 − share) · b) for 0 < share < 1; impossible where both are, with no gradient there."""
    impossible = _both_impossible(log_a, log_b)
    zero = ops.zeros_like(log_a)
    a = ops.where(impossible, zero, log_a + math.log(share))
    b = ops.where(impossible, zero, log_b + math.log1p(-share))
    return ops.where(impossible, ops.full_like(log_a, IMPOSSIBLE), _log_add_exp(a, b))


def _log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    """log(eᵃ + eᵇ) where one of them may be −inf."""
    most = ops.stop_gradient(ops.maximum(a, b))
    return most + ops.log(ops.exp(a - most) + ops.exp(b - most))


def _both_impossible(student: Tensor, reference: Tensor) -> Tensor:
    return ops.logical_and(student == IMPOSSIBLE, reference == IMPOSSIBLE)
