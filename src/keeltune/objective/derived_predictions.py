"""Predictions made of other predictions: on some of their choices, at a temperature, or averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from keeltune.objective.log_probs import log_softmax
from keeltune.objective.predictions import Rows


class Shared(Rows):
    """A reference's rows on the choices that it and the student both have; both sides are renormalised over these.

    R'(j) = R(j) / Σ R(i), i and j among the shared choices, and so for the student: D is a divergence of two
    distributions, ≥ 0, and 0 only where they agree there. What one side alone has is never taken for probability 0 and
    never copied. Softmax over the shared logits is the same thing, so that a temperature may come before or after it.
    """

    def __init__(self, rows: Rows, shared: slice | Tensor):
        self.rows = rows
        self.shared = shared  # a slice from 0, or ids [C']

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def choices(self) -> int:
        return self.shared.stop if isinstance(self.shared, slice) else len(self.shared)

    def log_probs(self, part: slice, temperature: float = 1.0) -> Tensor:
        return subset(self.rows.log_probs(part, temperature), self.shared)

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        return self.rows.use(part, lambda log_probs: function(subset(log_probs, self.shared)), temperature)

    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        return subset(log_probs, self.shared)


def subset(log_probs: Tensor, shared: slice | Tensor) -> Tensor:
    """Log-probabilities [n, C] of either side on the shared choices, renormalised: [n, C']."""
    return log_probs[:, shared].log_softmax(-1)


class Wrapped(Rows):
    """Other rows, as many predictions among as many choices, read in another way."""

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def choices(self) -> int:
        return self.rows.choices


class Subset(Wrapped):
    """A reference's rows on the shared choices already, as a cache has them; the student's are restricted here."""

    def __init__(self, rows: Rows, shared: slice | Tensor):
        self.rows, self.shared = rows, shared

    def log_probs(self, part: slice, temperature: float = 1.0) -> Tensor:
        return self.rows.log_probs(part, temperature)

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        return self.rows.use(part, function, temperature)

    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        return self.rows.comparable(subset(log_probs, self.shared), part)


class Mixture(Rows):
    """log Σ w_i · R_i of several references' rows, made when a slice is read: [N, C] of none need exist at once.

    Σ w_i = 1. All members distinguish the same outcomes. A temperature is applied to the mixture, not to its members.
    No gradient.
    """

    def __init__(self, members: Sequence[Rows], log_weights: Sequence[float]):
        if len({(len(member), member.choices) for member in members}) > 1:
            found = ", ".join(f"{len(member)} of {member.choices} choices" for member in members)
            raise ValueError(f"found references with other predictions than each other ({found}), expected the same")
        self.members = members
        self.log_weights = log_weights

    def __len__(self) -> int:
        return len(self.members[0])

    @property
    def choices(self) -> int:
        return self.members[0].choices

    @torch.no_grad()
    def log_probs(self, part: slice, temperature: float = 1.0) -> Tensor:
        votes = [m.log_probs(part) + log_w for m, log_w in zip(self.members, self.log_weights, strict=True)]
        return log_softmax(torch.stack(votes).logsumexp(0), temperature)

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        return function(self.log_probs(part, temperature))

    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        return self.members[0].comparable(log_probs, part)


class Tempered(Wrapped):
    """Rows whose logits are divided by `divisor`, before anything else is done with them: calibrated rows."""

    def __init__(self, rows: Rows, divisor: float):
        self.rows = rows
        self.divisor = divisor

    def log_probs(self, part: slice, temperature: float = 1.0) -> Tensor:
        return self.rows.log_probs(part, self.divisor * temperature)

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        return self.rows.use(part, function, self.divisor * temperature)

    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        return self.rows.comparable(log_probs, part)


class Held(Wrapped):
    """A reference's rows, `size` of them read at a time and held: smaller parts of those cost no second reading."""

    def __init__(self, rows: Rows, size: int):
        self.rows, self.size = rows, size
        self._held: tuple[float, slice, Tensor] | None = None

    def log_probs(self, part: slice, temperature: float = 1.0) -> Tensor:
        if self._held is None or self._held[0] != temperature or not _within(part, self._held[1]):
            whole = slice(part.start, max(part.stop, min(part.start + self.size, len(self.rows))))
            self._held = None  # before the next is made
            self._held = temperature, whole, self.rows.log_probs(whole, temperature)
        _, held, log_probs = self._held
        return log_probs[part.start - held.start : part.stop - held.start]

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        return function(self.log_probs(part, temperature))

    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        return self.rows.comparable(log_probs, part)

    def compared_by(self, divergence: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return self.rows.compared_by(divergence)


def _within(part: slice, whole: slice) -> bool:
    return bool(whole.start <= part.start and part.stop <= whole.stop)
