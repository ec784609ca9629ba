"""The predictions of a batch: N categorical choices among C, read slice by slice as log-probabilities.

The objective and the tasks know only this contract. It lets the same formula run over logits that are there (`Dense`),
over a vocabulary head that is applied slice by slice so that [N, C] never exists at once (`Projected`), over a
reference of which only the k likeliest choices and the mass of the rest are known (`Coarse`).

Shapes: N predictions, n of them in a slice, C choices, H the width of a head's input, k kept choices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from keeltune.objective.head_gradient import summed
from keeltune.objective.log_probs import full_precision, log_softmax

IGNORED = -100
"""The target of a prediction without a label: its cross-entropy is 0 and it is not counted."""


class Rows(ABC):
    """N predictions. `len(rows)` is N."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def choices(self) -> int:
        """C."""

    @abstractmethod
    def log_probs(self, part: slice, temperature: float = 1.0) -> Tensor:
        """log softmax(logits / temperature) of the predictions in `part`: [n, C], float32 (float64 stays float64)."""

    @abstractmethod
    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        """`function(log_probs(part, temperature))`, keeping as little for the backward pass as these rows can."""

    def total(self, function: PerSlice, size: int | None = None, temperature: float = 1.0) -> Tensor:
        """Σ over slices of `function(log_probs(part, temperature), part)`: [k].

        `function` gives a loss, or a loss and what is only measured: a scalar or [k], of which the first alone may be
        differentiated, and once. `size`: predictions of a slice.
        """
        parts = [self.use(part, partial(function, part=part), temperature) for part in slices(self, size)]
        return torch.stack(parts).sum(0).reshape(-1)

    @abstractmethod
    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        """`log_probs` [n, C] of other rows, brought to the outcomes that these rows distinguish."""

    def compared_by(self, divergence: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """The divergence as a function of what `log_probs` gives: itself, as that is log-probabilities."""
        return divergence


class Dense(Rows):
    """Rows whose logits [N, C] are at hand."""

    def __init__(self, logits: Tensor):
        self.logits = logits

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def choices(self) -> int:
        return self.logits.shape[-1]

    def log_probs(self, part: slice, temperature: float = 1.0) -> Tensor:
        return log_softmax(self.logits[part], temperature)

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        return function(self.log_probs(part, temperature))

    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        return log_probs


class Projected(Rows):
    """Rows as the input [N, H] of a vocabulary head, projected to [n, C] only when a slice is read.

    Peak memory grows with the slice and not with N × C: a sum over the slices (`total`) makes the gradient of each
    while it is there (`head_gradient.py`), and what else is made of one (`use`) is computed again in the backward pass.
    Value and gradient are those of `Dense(head(hidden))`.
    """

    def __init__(self, hidden: Tensor, head: Callable[[Tensor], Tensor], choices: int | None = None):
        self.hidden = hidden
        self.head = head
        self._choices = choices

    def __len__(self) -> int:
        return len(self.hidden)

    @property
    def choices(self) -> int:
        if self._choices is None:
            with torch.no_grad():
                self._choices = self.head(self.hidden[:1]).shape[-1]
        return self._choices

    def log_probs(self, part: slice, temperature: float = 1.0) -> Tensor:
        return log_softmax(self.head(self.hidden[part]), temperature)

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        def whole(hidden: Tensor) -> Tensor:
            return function(log_softmax(self.head(hidden), temperature))

        return checkpoint(whole, self.hidden[part], use_reentrant=False)

    def total(self, function: PerSlice, size: int | None = None, temperature: float = 1.0) -> Tensor:
        known = None
        if torch.is_grad_enabled():
            parts = slices(self, size or max(ROWS, SLICE // max(1, self.choices)))
            known = summed(self.hidden, self.head, parts, function, temperature)
        return super().total(function, size, temperature) if known is None else known

    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        return log_probs


class Coarse(Rows):
    """A reference's k likeliest choices `ids` [N, k] and its log-probabilities [N, k + 1], the last that of all others.

    Other rows are coarsened to the same k + 1 outcomes (gather, and logsumexp of the rest). Any f-divergence of the
    two is then ≥ 0, 0 only where they agree on those outcomes, and at most the full one. The kept choices are never
    renormalised and the tail is never dropped. The temperature is that of the stored distribution.
    """

    def __init__(self, ids: Tensor, log_probs: Tensor, temperature: float = 1.0):
        if log_probs.shape[-1] != ids.shape[-1] + 1:
            raise ValueError(
                f"found {log_probs.shape[-1]} log-probabilities for {ids.shape[-1]} kept choices; expected one more "
                "than the choices: the last is the mass of all the others"
            )
        self.ids = ids
        self._log_probs = log_probs
        self.temperature = temperature

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def choices(self) -> int:
        return self._log_probs.shape[-1]

    def log_probs(self, part: slice, temperature: float = 1.0) -> Tensor:
        if temperature != self.temperature:
            raise ValueError(
                f"found rows stored at temperature {self.temperature}, expected {temperature}: a coarse distribution "
                "cannot be tempered again; store it once more at the temperature of the recipe"
            )
        return full_precision(self._log_probs[part])

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        return function(self.log_probs(part, temperature))

    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        outcomes: Tensor = _Outcomes.apply(log_probs, self.ids[part])
        return outcomes


class _Outcomes(torch.autograd.Function):
    """log P of k choices and of all the others together: [n, C], ids [n, k] -> [n, k + 1].

    log tail = log Σ p over the others, never log(1 − Σ p of the kept), which rounds to nothing. One pass over [n, C]
    each way, where autograd would make a dozen of gather, scatter and logsumexp. No others, or none with any
    probability: the tail is −inf and has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, ids: Tensor) -> Tensor:
        rest = log_probs.exp().scatter_(-1, ids, 0.0)
        mass = rest.sum(-1, keepdim=True)
        ctx.save_for_backward(rest, mass, ids)
        return torch.cat([log_probs.gather(-1, ids), mass.log()], dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rest, mass, ids = ctx.saved_tensors
        share = torch.where(mass > 0, gradient[:, -1:] / mass.clamp_min(torch.finfo(mass.dtype).tiny), 0.0)
        return (rest * share).scatter_(-1, ids, gradient[:, :-1]), None


SLICE = 2**24
"""Numbers of a slice [n, C] where nobody says its size: 64 MiB in float32."""

ROWS = 128
"""The fewest rows of a slice whose gradient is made: each slice reads and writes matrices of the head's size."""


def slices(rows: Rows, size: int | None = None) -> Iterator[slice]:
    """0…N in slices of at most `size` predictions; one empty slice where N is 0, so that a sum keeps its graph.

    Without a size, as many as hold `SLICE` numbers.
    """
    size = size or max(1, SLICE // max(1, rows.choices))
    for start in range(0, max(len(rows), 1), size):
        yield slice(start, min(start + size, len(rows)))


def nll(rows: Rows, targets: Tensor, weights: Tensor | None = None, size: int | None = None) -> Tensor:
    """−w · log P(y|x) of each prediction, [N] nats; 0 where there is no label.

    Args: `targets` [N], IGNORED where there is no label; `weights` [N] or None for ones.
    """

    losses = torch.cat([rows.use(part, partial(_picked, targets=targets[part])) for part in slices(rows, size)])
    return losses if weights is None else losses * weights


def _picked(log_probs: Tensor, targets: Tensor) -> Tensor:
    """−log P(y|x) of a slice [n, C] -> [n], 0 where there is no label."""
    picked = log_probs.gather(-1, targets.clamp_min(0)[:, None]).squeeze(-1)
    return torch.where(targets == IGNORED, 0.0, -picked)


class PerSlice(Protocol):
    """A sum over a slice's predictions, of their log-probabilities [n, C] and the slice that they are."""

    def __call__(self, log_probs: Tensor, part: slice) -> Tensor: ...


def sliced_cross_entropy(targets: Tensor, weights: Tensor | None = None) -> PerSlice:
    """Σ −w · log P(y|x) of a slice as a function of its log-probabilities [n, C]; what `cross_entropy` sums up."""

    def of_slice(log_probs: Tensor, part: slice) -> Tensor:
        losses = _picked(log_probs, targets[part])
        return (losses if weights is None else losses * weights[part]).sum()

    return of_slice


def cross_entropy(rows: Rows, targets: Tensor, weights: Tensor | None = None, size: int | None = None) -> Tensor:
    """Σ −w · log P(y|x) over the labelled predictions: a sum in nats, never a mean, with a graph even where it is 0."""
    return rows.total(sliced_cross_entropy(targets, weights), size)[0]
