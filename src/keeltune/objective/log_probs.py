"""Log-probabilities of logits; and the way back, from the gradient at the former to the gradient at the latter.

Shapes: n predictions, C choices.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature), in full precision."""
    logits = full_precision(logits)
    return torch.log_softmax(logits / temperature if temperature != 1.0 else logits, dim=-1)


def full_precision(x: Tensor) -> Tensor:
    """float32 at least: in bf16 the KL of near-equal distributions comes out negative."""
    return x if x.dtype == torch.float64 else x.float()


def gradient_at_logits(
    log_probs: Tensor, dense: Tensor | None, picked: list[tuple[Tensor, Tensor]], temperature: float
) -> Tensor:
    """(g − softmax · Σ g) / temperature, [n, C], of the gradient g at `log_probs` [n, C], which is overwritten.

    g is the sum of `dense` [n, C], overwritten too, and of `picked`, (choices [n, m], gradient there [n, m]): what a
    cross-entropy reads. Without a dense part no other table of [n, C] is made.
    """
    total = sum((part.sum(-1, keepdim=True) for _, part in picked), log_probs.new_zeros(len(log_probs), 1))
    probabilities = log_probs.exp_()
    if dense is None:
        made = probabilities.mul_(-total)
    else:
        dense = dense.contiguous()  # that of a plain sum is one number, seen n · C times
        made = dense.addcmul_(probabilities, total + dense.sum(-1, keepdim=True), value=-1.0)
    for choices, part in picked:
        made.scatter_add_(-1, choices, part)
    return made if temperature == 1.0 else made.div_(temperature)
