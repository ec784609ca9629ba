"""Predictions in Keras: logits [..., C], or a reference's k likeliest choices and the mass of the rest.

Shapes: any number of leading axes, C choices, k kept ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

Tensor = Any

IGNORED = -100
"""The target of a prediction without a label: its cross-entropy is 0 and it is not counted."""


class Coarse(NamedTuple):
    """A reference's k likeliest choices and its log-probabilities, the last that of all other choices together.

    The student is coarsened to the same k + 1 outcomes: nothing is renormalised, no tail is dropped.

    ids [..., k]        log_probs [..., k + 1]        temperature   of the stored distribution, and of no other
    """

    ids: Tensor
    log_probs: Tensor
    temperature: float = 1.0


def full_precision(x: Tensor) -> Tensor:
    """float32 at least, whatever the dtype policy: in half precision the KL of near-equal distributions is negative."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature), in full precision."""
    logits = full_precision(logits)
    return ops.log_softmax(logits / temperature if temperature != 1.0 else logits, axis=-1)


def coarsened(log_probs: Tensor, ids: Tensor) -> Tensor:
    """log P of the choices `ids` and of all the others together: [..., C], [..., k] -> [..., k + 1].

    log tail = log Σ p over the others, never log(1 − Σ p of the kept), which rounds to nothing. Where the others have
    no probability the tail is −inf and has no gradient.
    """
    choices, kept = log_probs.shape[-1], ids.shape[-1]
    flat = ops.reshape(ops.cast(ids, "int32"), (-1, kept))
    rows = ops.repeat(ops.arange(ops.shape(flat)[0], dtype="int32")[:, None], kept, axis=1)
    where = ops.stack([ops.reshape(rows, (-1,)), ops.reshape(flat, (-1,))], axis=-1)
    table = ops.reshape(log_probs, (-1, choices))
    taken = ops.scatter_update(ops.zeros_like(table), where, ops.ones_like(where[:, 0], dtype=table.dtype))
    rest = ops.where(ops.stop_gradient(taken) > 0, ops.zeros_like(table), ops.exp(table))
    mass = ops.sum(rest, axis=-1, keepdims=True)
    any_left = mass > 0
    tail = ops.where(any_left, ops.log(ops.where(any_left, mass, ops.ones_like(mass))),
                     ops.full_like(mass, -math.inf))  # fmt: skip
    outcomes = ops.concatenate([ops.take_along_axis(table, flat, axis=-1), tail], axis=-1)
    return ops.reshape(outcomes, (*ops.shape(log_probs)[:-1], kept + 1))


def averaged(members: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """log Σ w_i · R_i of several references' logits [..., C]: probabilities are averaged, a committee's vote."""
    weights = [1.0] * len(members) if weights is None else weights
    votes = [log_softmax(m) + math.log(w / sum(weights)) for m, w in zip(members, weights, strict=True)]
    return ops.logsumexp(ops.stack(votes), axis=0)


def nll(logits: Tensor, targets: Tensor) -> Tensor:
    """−log P(y|x) of each prediction, [...] nats; 0 where there is no label. `targets` [...] whole numbers."""
    log_probs, targets = log_softmax(logits), ops.cast(targets, "int32")
    labelled = targets != IGNORED
    picked = ops.take_along_axis(log_probs, ops.where(labelled, targets, 0)[..., None], axis=-1)[..., 0]
    return ops.where(labelled, -picked, ops.zeros_like(picked))


def smoothing(logits: Tensor, targets: Tensor, epsilon: float) -> Tensor:
    """ε · (mean_c −log p_c − CE) of each prediction, [...] nats: what label smoothing adds to its cross-entropy.

    The mean runs over the choices that a prediction has: those of probability 0 are none.
    """
    log_probs = log_softmax(logits)
    possible = log_probs != -math.inf
    total = ops.sum(ops.where(possible, log_probs, ops.zeros_like(log_probs)), axis=-1)
    mean = total / ops.sum(ops.cast(possible, log_probs.dtype), axis=-1)
    added = epsilon * (-mean - nll(logits, targets))
    return ops.where(ops.cast(targets, "int32") != IGNORED, added, ops.zeros_like(added))


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Σ −w · log P(y|x) over the labelled predictions: a sum in nats, never a mean.

    Args: `logits` [..., C]; `targets` [...], IGNORED where there is no label; `weights` [...] or None for ones.
    """
    losses = nll(logits, targets)
    return ops.sum(losses if weights is None else losses * ops.cast(weights, losses.dtype))
