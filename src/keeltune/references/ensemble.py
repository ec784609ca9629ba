from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from keeltune.references.reference import Batch, Reference
from keeltune.rows import Dense, Rows


class Ensemble(Reference):
    """Several references, their probabilities averaged: R = Σ w_i · R_i, Σ w_i = 1.

    Probabilities, not logits: the mean of distributions is the mixture that a committee votes. A temperature of the
    objective is applied to R, not to its members.
    """

    kind = "ensemble"

    def __init__(self, members: Sequence[Reference], weights: Sequence[float] | None = None):
        if not members:
            raise ValueError("found no reference, expected at least one")
        weights = list(weights) if weights is not None else [1.0] * len(members)
        if len(weights) != len(members) or min(weights) <= 0:
            raise ValueError(
                f"found weights {weights}, expected one positive weight for each of {len(members)} references"
            )
        self.members = list(members)
        self.log_weights = [math.log(weight / sum(weights)) for weight in weights]

    def rows(self, batch: Batch) -> Rows:
        return Mixture([member.rows(batch) for member in self.members], self.log_weights)


class Mixture(Rows):
    """log Σ w_i · R_i of several references' rows, made when a slice is read: [N, C] of none of them exists at once."""

    def __init__(self, members: Sequence[Rows], log_weights: Sequence[float]):
        self.members = members
        self.log_weights = log_weights

    def __len__(self) -> int:
        return len(self.members[0])

    @property
    def choices(self) -> int:
        return self.members[0].choices

    @torch.no_grad()
    def log_probs(self, part: slice, temperature: float = 1.0) -> Tensor:
        votes = [
            member.log_probs(part) + log_weight
            for member, log_weight in zip(self.members, self.log_weights, strict=True)
        ]
        return Dense(torch.stack(votes).logsumexp(0)).log_probs(slice(None), temperature)

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        return function(self.log_probs(part, temperature))

    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        return log_probs
