"""The predictions of a batch: N categorical choices among C, read slice by slice as log-probabilities.

The objective and the tasks know only this contract. It lets the same formula run over logits that are there (`Dense`),
over a vocabulary head that is applied slice by slice so that [N, C] never exists at once (`Projected`), and over a
reference of which only the k likeliest choices and the mass of the rest are known (`Coarse`).

Shapes: N predictions, n of them in a slice, C choices, H the width of a head's input, k kept choices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

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

    @abstractmethod
    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        """`log_probs` [n, C] of other rows, brought to the outcomes that these rows distinguish."""


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
        return _log_softmax(self.logits[part], temperature)

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        return function(self.log_probs(part, temperature))

    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        return log_probs


class Projected(Rows):
    """Rows as the input [N, H] of a vocabulary head, projected to [n, C] only when a slice is read.

    What is made of a slice's log-probabilities (`use`) is computed again in the backward pass, so that peak memory
    grows with the slice and not with N × C; the value and the gradient are those of `Dense(head(hidden))`.
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
        return _log_softmax(self.head(self.hidden[part]), temperature)

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        def whole(hidden: Tensor) -> Tensor:
            return function(_log_softmax(self.head(hidden), temperature))

        return checkpoint(whole, self.hidden[part], use_reentrant=False)

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
        ids = self.ids[part]
        rest = log_probs.scatter(-1, ids, -torch.inf)
        empty = (rest == -torch.inf).all(-1, keepdim=True)  # k = C: logsumexp of nothing has a NaN gradient
        tail = rest.masked_fill(empty, 0.0).logsumexp(-1, keepdim=True).masked_fill(empty, -torch.inf)
        return torch.cat([log_probs.gather(-1, ids), tail], dim=-1)


class Mixture(Rows):
    """log Σ w_i · R_i of several references' rows, made when a slice is read: [N, C] of none need exist at once.

    Σ w_i = 1. A temperature is applied to the mixture, not to its members. No gradient.
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
        return _log_softmax(torch.stack(votes).logsumexp(0), temperature)

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        return function(self.log_probs(part, temperature))

    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        return log_probs


class Tempered(Rows):
    """Rows whose logits are divided by `own`, before anything else is done with them: calibrated rows."""

    def __init__(self, rows: Rows, own: float):
        self.rows = rows
        self.own = own

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def choices(self) -> int:
        return self.rows.choices

    def log_probs(self, part: slice, temperature: float = 1.0) -> Tensor:
        return self.rows.log_probs(part, self.own * temperature)

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        return self.rows.use(part, function, self.own * temperature)

    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        return self.rows.comparable(log_probs, part)


SLICE = 2**24
"""Numbers of a slice [n, C] where nobody says its size: 64 MiB in float32."""


def slices(rows: Rows, size: int | None = None) -> Iterator[slice]:
    """0…N in slices of at most `size` predictions; one empty slice where N is 0, so that a sum keeps its graph.

    Without a size, as many as hold `SLICE` numbers.
    """
    size = size or max(1, SLICE // max(1, rows.choices))
    for start in range(0, max(len(rows), 1), size):
        yield slice(start, start + size)


def nll(rows: Rows, targets: Tensor, weights: Tensor | None = None, size: int | None = None) -> Tensor:
    """−w · log P(y|x) of each prediction, [N] nats; 0 where there is no label.

    Args: `targets` [N], IGNORED where there is no label; `weights` [N] or None for ones.
    """

    def of_slice(log_probs: Tensor, target: Tensor) -> Tensor:
        picked = log_probs.gather(-1, target.clamp_min(0)[:, None]).squeeze(-1)
        return torch.where(target == IGNORED, 0.0, -picked)

    losses = torch.cat([rows.use(part, partial(of_slice, target=targets[part])) for part in slices(rows, size)])
    return losses if weights is None else losses * weights


def cross_entropy(rows: Rows, targets: Tensor, weights: Tensor | None = None, size: int | None = None) -> Tensor:
    """Σ −w · log P(y|x) over the labelled predictions: a sum in nats, never a mean, with a graph even where it is 0."""
    return nll(rows, targets, weights, size).sum()


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    logits = full_precision(logits)
    return torch.log_softmax(logits / temperature if temperature != 1.0 else logits, dim=-1)


def full_precision(x: Tensor) -> Tensor:
    """float32 at least: in bf16 the KL of near-equal distributions comes out negative."""
    return x if x.dtype == torch.float64 else x.float()
