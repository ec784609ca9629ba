"""A reference of your own: one final class in a module of your own package."""

from __future__ import annotations

import math
from typing import ClassVar

from keeltune.objective.derived_predictions import Mixture
from keeltune.objective.predictions import Dense, Rows
from keeltune.objective.references.reference import Batch, Need, Reference, ReferenceContext


class Smoothed(Reference):
    """Another reference and the uniform distribution: R = (1 − share) · R' + share / C.

    A teacher that is sure and wrong then costs at most log(C / share) nats a prediction.
    """

    kind = "smoothed"
    needs: ClassVar[frozenset[Need]] = frozenset({"models"})

    def __init__(self, member: Reference, share: float = 0.05):
        if not 0 < share < 1:
            raise ValueError(f"found share={share}, expected a number between 0 and 1")
        self.member = member
        self.log_shares = [math.log1p(-share), math.log(share)]

    @classmethod
    def build(cls, context: ReferenceContext) -> Smoothed:
        (teacher,) = context.models()
        return cls(teacher)

    def rows(self, batch: Batch) -> Rows:
        member = self.member.rows(batch)
        like = member.log_probs(slice(0, 1))  # of its device and dtype
        uniform = Dense(like.new_zeros(1, member.choices).expand(len(member), -1))  # equal logits
        return Mixture([member, uniform], self.log_shares)
