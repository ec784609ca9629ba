"""The forms in which a cache keeps distributions.

| form     | numbers a prediction          | divergences       | what is lost                          |
| -------- | ----------------------------- | ----------------- | ------------------------------------- |
| `full`   | C log-probabilities           | any               | nothing (float32)                     |
| `top-k`  | k ids, k + 1 log-probabilities | any f-divergence | what the tail's choices differ in     |
| `hidden` | H, the input of the head      | any               | nothing (float32); the head is kept   |

`full` and `hidden` can be read at any temperature; `top-k` at the one it was written at alone.
Shapes: N predictions, C choices, k kept ones, H the width of the head's input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from keeltune.objective.gaussian import Gaussian
from keeltune.objective.predictions import Coarse, Dense, Projected, Rows, slices

Kind = Literal["full", "top-k", "hidden"]


class StoredForm(ABC):
    """How a distribution is kept: `write` makes columns of predictions, `read` predictions of columns."""

    kind: ClassVar[Kind]
    reads: ClassVar[tuple[str, ...]]
    """The columns that `read` wants."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a manifest says of the form; two caches of different facts are two caches."""

    @abstractmethod
    def bytes_each(self, choices: int) -> float:
        """Bytes of one prediction among so many choices."""

    @abstractmethod
    def write(self, rows: Rows, counts: Sequence[int], widths: Sequence[int]) -> dict[str, Tensor]:
        """The columns of a batch's predictions, on the CPU. `widths`: each example's own number of choices."""

    @abstractmethod
    def read(self, columns: Mapping[str, Tensor], counts: Sequence[int], widths: Sequence[int]) -> Rows:
        """The predictions again. `columns` are those of the examples, one after the other, on the student's device."""


@dataclass(frozen=True)
class Full(StoredForm):
    """log P of every choice. Rows of different width (places in texts of different length) lie behind each other. Of
    numbers, which have no choices, the mean (width 1)."""

    dtype: torch.dtype = torch.float32
    kind = "full"
    reads = ("log_probs",)

    def facts(self) -> dict[str, Any]:
        return {"name": self.kind, "dtype": name_of(self.dtype)}

    def bytes_each(self, choices: int) -> float:
        return choices * self.dtype.itemsize

    def write(self, rows: Rows, counts: Sequence[int], widths: Sequence[int]) -> dict[str, Tensor]:
        table = torch.cat([rows.log_probs(part).to(self.dtype).cpu() for part in slices(rows)])
        blocks = [block[:, :width].flatten() for block, width in zip(table.split(list(counts)), widths, strict=True)]
        return {"log_probs": torch.cat(blocks)}

    def read(self, columns: Mapping[str, Tensor], counts: Sequence[int], widths: Sequence[int]) -> Rows:
        numbers, widest = columns["log_probs"].float(), max(widths)
        if widest == 1:
            return Gaussian(numbers)
        if len({*widths}) == 1:
            return Dense(numbers.view(-1, widest))
        table = numbers.new_full((sum(counts), widest), -torch.inf)
        row = start = 0
        for count, width in zip(counts, widths, strict=True):
            end = start + count * width
            table[row : row + count, :width] = numbers[start:end].view(count, width)
            row, start = row + count, end
        return Dense(table)


@dataclass(frozen=True)
class TopK(StoredForm):
    """The k likeliest choices and the mass of all others, at one temperature: `predictions.Coarse`.

    Ids are 4 bytes wide where 2 do not hold them: no vocabulary is too large. The k + 1 outcomes are normalised when
    they are read, which takes the rounding of the stored numbers back and nothing else: all k and the tail are there.
    """

    k: int
    temperature: float = 1.0
    dtype: torch.dtype = torch.float16
    kind = "top-k"
    reads = ("ids", "log_probs", "tail")

    def facts(self) -> dict[str, Any]:
        return {"name": self.kind, "k": self.k, "temperature": self.temperature, "dtype": name_of(self.dtype)}

    def bytes_each(self, choices: int) -> float:
        return min(self.k, choices) * (id_dtype(choices).itemsize + self.dtype.itemsize) + 4

    def write(self, rows: Rows, counts: Sequence[int], widths: Sequence[int]) -> dict[str, Tensor]:
        if isinstance(rows, Coarse):  # a server's answers are coarse as they come
            parts = [(rows.ids, *rows.log_probs(slice(None), self.temperature).tensor_split([self.k], dim=-1))]
        else:
            parts = [self._coarsened(rows.log_probs(part, self.temperature)) for part in slices(rows)]
        ids, kept, tail = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
        return {"ids": ids.to(id_dtype(widths[0])), "log_probs": kept.to(self.dtype), "tail": tail.float().flatten()}

    def _coarsened(self, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept, ids = log_probs.topk(min(self.k, log_probs.shape[-1]), dim=-1)
        tail = log_probs.exp_().scatter_(-1, ids, 0.0).sum(-1).log()  # in place: no copy of [n, C] is made
        lowest = torch.finfo(self.dtype).min
        return ids, kept.clamp_min(lowest), tail

    def read(self, columns: Mapping[str, Tensor], counts: Sequence[int], widths: Sequence[int]) -> Rows:
        outcomes = torch.cat([columns["log_probs"].float(), columns["tail"].float()[:, None]], dim=-1)
        return Coarse(columns["ids"].long(), outcomes.log_softmax(-1), self.temperature)


@dataclass(frozen=True)
class Hidden(StoredForm):
    """The input of the vocabulary head, and the head: the distribution itself, at H numbers a prediction.

    `int8` keeps each row as whole numbers −127…127 times the row's own scale, max |h| / 127.
    """

    width: int
    dtype: torch.dtype = torch.float32
    head: Callable[[Tensor], Tensor] | None = None
    choices: int = 0
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    kind = "hidden"

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("hidden", "scale") if self.dtype == torch.int8 else ("hidden",)

    def facts(self) -> dict[str, Any]:
        return {"name": self.kind, "width": self.width, "dtype": name_of(self.dtype)}

    def bytes_each(self, choices: int) -> float:
        return self.width * self.dtype.itemsize + (4 if self.dtype == torch.int8 else 0)

    def write(self, rows: Rows, counts: Sequence[int], widths: Sequence[int]) -> dict[str, Tensor]:
        if not isinstance(rows, Projected):
            raise TypeError(f"found {type(rows).__name__}, expected rows that know their head's input")
        hidden = rows.hidden.cpu()
        if self.dtype != torch.int8:
            return {"hidden": hidden.to(self.dtype)}
        scale = hidden.float().abs().amax(-1).clamp_min(1e-30) / 127
        return {"hidden": (hidden.float() / scale[:, None]).round().to(torch.int8), "scale": scale}

    def read(self, columns: Mapping[str, Tensor], counts: Sequence[int], widths: Sequence[int]) -> Rows:
        assert self.head is not None
        hidden = columns["hidden"]
        if self.dtype == torch.int8:
            hidden = hidden.float() * columns["scale"][:, None]
        return Projected(hidden, self._applied, self.choices)

    @torch.no_grad()
    def _applied(self, hidden: Tensor) -> Tensor:
        assert self.head is not None
        with self.autocast():
            return self.head(hidden)


def id_dtype(choices: int) -> torch.dtype:
    """The narrowest type of whole numbers that holds the ids of so many choices."""
    return torch.int16 if choices <= 2**15 else torch.int32


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
