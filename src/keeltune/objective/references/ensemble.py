from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from keeltune.objective.derived_predictions import Mixture
from keeltune.objective.gaussian import Gaussian
from keeltune.objective.predictions import Rows
from keeltune.objective.references.reference import Batch, Need, Reference, ReferenceContext


class Ensemble(Reference):
    """Several references, their probabilities averaged: R = Σ w_i · R_i, Σ w_i = 1.

    Probabilities, not logits: the mean of distributions is the mixture that a committee votes. A temperature of the
    objective is applied to R, not to its members.
    """

    kind = "ensemble"
    needs: ClassVar[frozenset[Need]] = frozenset({"models"})

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

    @classmethod
    def build(cls, context: ReferenceContext) -> Ensemble:
        return cls(context.models(), context.fields.get("weight"))

    def rows(self, batch: Batch) -> Rows:
        return averaged([member.rows(batch) for member in self.members], self.log_weights)


def averaged(rows: Sequence[Rows], log_weights: Sequence[float]) -> Rows:
    """Σ w_i · R_i; of Gaussians, of which a mixture is none, that of the mean of their means."""
    if isinstance(rows[0], Gaussian):
        return rows[0].averaged(rows, [math.exp(log_weight) for log_weight in log_weights])
    return Mixture(rows, log_weights)
