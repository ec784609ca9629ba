"""A vocabulary head that sees the predictions alone, and is applied in slices where [N, V] would be large.

Of a batch's [B, T] positions only some are predictions: prompts and padding are not. A forward pre-hook on the head
hands it those positions only, inside the model's own `forward`: no model code, no wrapper passed by, value and gradient
unchanged. Where N × V numbers are many, the hook keeps the head's input and lets two positions pass; the head is then
applied slice by slice (`rows.Projected`). What a model does after its head (a bias, a cap, a scale) is noted at those
two and done again to every slice. Where that does not give the model's own logits, the model is run whole, and said so
once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from keeltune.objective import host_counts
from keeltune.objective.predictions import SLICE, Dense, Projected, Rows

LARGE = SLICE
"""Numbers of [N, V] beyond which the head is applied in slices: where one slice holds them all, nothing is gained."""

VIEWED = vars(torch._C.TensorBase)["_base"].__get__
"""What a sharded model asks of its outputs: whose view they are. It makes no number of them."""

_known_ends: WeakKeyDictionary[Any, set[Any]] = WeakKeyDictionary()
"""Of each model, what follows its head where that was tried, and found to be position by position."""

_log = logging.getLogger(__name__)

_not_sliceable: WeakSet[Any] = WeakSet()
"""Models whose logits are not made of their head's output position by position."""


@dataclass
class Selected:
    """A model's outputs, one for each call, whose logits are those of the predictions alone."""

    rows: Rows
    outputs: Sequence[Any]


def forward(
    model: Any,
    batch: Mapping[str, Any],
    large: int | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    run: Callable[[], Sequence[Any]] | None = None,
) -> Any:
    """`model(**batch["inputs"])`, its head applied to `batch["predicted"]` [B, T] bool alone: `Selected`.

    `large` (default `LARGE`) is the N × V from which the head is applied in slices. A model without output embeddings,
    or whose head does not see [B, T] positions, is run as it is and its outputs are returned. Positions that a model
    puts before the text (those of a picture) are no predictions. Where rows must not share a forward pass, `groups`
    are their indices in the batch, and `run` gives the model's outputs for each group.
    """
    large = LARGE if large is None else large
    inner = getattr(model, "module", model)
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if head is None:
        return model(**batch["inputs"]) if run is None else run()
    predicted: Tensor = batch["predicted"]
    parts = [predicted] if groups is None else [predicted[list(group)] for group in groups]
    width = len(head.weight) if hasattr(head, "weight") else head.out_features  # a resized tied head keeps the latter
    n = host_counts.predicted(batch)
    sliced = n > 1 and n * width > large and inner not in _not_sliceable
    seen: list[Tensor] = []
    after_head = AfterHead()

    def select(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden, part = arguments[0], parts[min(len(seen), len(parts) - 1)]
        if groups is not None and not part[:, hidden.shape[1] :].any():
            part = part[:, : hidden.shape[1]]  # a group is as long as its own rows
        if hidden.dim() != 3 or len(hidden) != len(part) or hidden.shape[1] < part.shape[1]:
            return None
        chosen = _chosen(hidden, batch) if groups is None else hidden[_aligned(part, hidden)]
        seen.append(chosen)
        return ((chosen[:2] if sliced else chosen)[None], *arguments[1:])

    handles = [head.register_forward_pre_hook(select)]
    if sliced:
        handles.append(head.register_forward_hook(lambda module, arguments, output: after_head.begin(output)))
    try:
        with after_head if sliced else nullcontext():
            outputs = [model(**batch["inputs"])] if run is None else run()
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        return outputs[0] if run is None else outputs
    logits: list[Tensor] = [output.logits for output in outputs]  # [1, n, V] each, or [1, 2, V]
    if not sliced:
        return Selected(Dense(_by_row([group[0] for group in logits], parts, groups)), outputs)
    longest = max(range(len(seen)), key=lambda i: len(seen[i]))
    if not after_head.ends(longest, logits[longest], _known_ends.setdefault(inner, set())):
        _not_sliceable.add(inner)
        _log.warning("%s mixes its head's output: the head is not applied in slices", type(inner).__name__)
        return forward(model, batch, large, groups, run)
    hidden = _by_row(seen, parts, groups)
    for group in logits:  # in the graph, though nothing is taken of them: DDP wants each parameter used in the forward
        hidden = hidden + group[..., :0].sum().to(hidden.dtype)
    return Selected(Projected(hidden, AppliedHead(head, after_head, logits[0]), logits[0].shape[-1]), outputs)


@contextmanager
def sliced_from(numbers: int) -> Iterator[None]:
    """Inside, heads are applied in slices from so many numbers of [N, V] on: from 0, rows keep their head's input."""
    global LARGE
    previous, LARGE = LARGE, numbers
    try:
        yield
    finally:
        LARGE = previous


class AppliedHead:
    """A head with what its model does after it, in the autocast that it ran in: slices are read outside of it."""

    def __init__(self, head: Any, after_head: AfterHead, like: Tensor):
        self.head, self.after_head, self.kind = head, after_head, like.device.type
        on = torch.is_autocast_enabled(self.kind)
        self.dtype = torch.get_autocast_dtype(self.kind) if on else None

    def __call__(self, hidden: Tensor) -> Tensor:
        within = nullcontext() if self.dtype is None else torch.autocast(self.kind, dtype=self.dtype)
        with within:
            return self.after_head(self.head(hidden[None]))[0]


class AfterHead(TorchFunctionMode):
    """What a model does after its head: the torch functions that its output goes through, noted and done again."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, Any]] = []
        self.starts: list[tuple[Tensor, Tensor]] = []  # the head's outputs, and what they held then
        self.derived: dict[int, Tensor] = {}  # all that came of them, by id; referenced, so that no id is used twice
        self.start = self.end = torch.empty(0)

    def begin(self, output: Tensor) -> None:
        """`output` [1, m, V] is the head's; from here on it is followed."""
        self.starts.append((output, output.detach().clone()))
        self.derived[id(output)] = output

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        followed = func != VIEWED and any(id(t) in self.derived for t in _tensors((args, kwargs)))
        if followed and (result is None or any(True for _ in _tensors(result))):  # None: an assignment
            self.steps.append((func, args, kwargs, result))
            self.derived |= {id(t): t for t in _tensors(result)}
        return result

    def ends(self, number: int, logits: Tensor, known: set[Any]) -> bool:
        """Whether the head's output of that number becomes `logits` position by position: the last one alone does.

        `known`: the chains of functions of which that was found before. The numbers are not looked at again, which
        the host would have to wait for.
        """
        if number >= len(self.starts):
            return False
        self.start, values = self.starts[number]
        if id(logits) in self.derived:
            last = [logits]
        else:
            last = [t for t in reversed(self.derived.values()) if t.shape == logits.shape and torch.equal(t, logits)]
        if not last:
            return False
        self.end = last[0]
        chain = (number, self.end is self.start, tuple(_signature(*step) for step in self.steps))
        if chain in known:
            return True
        with torch.no_grad():
            alone = self(values[:, -1:])
        same = alone.shape == logits[:, -1:].shape and torch.allclose(alone, logits[:, -1:], rtol=1e-5, atol=1e-6)
        known |= {chain} if same else set()
        return same

    def program(self) -> list[tuple[str, float | Tensor | None]] | None:
        """The steps as names of torch functions with a constant (or none) each; None where one of them is no such step.

        Elementwise in the last dimension: a number, or a tensor of as many numbers as there are choices.
        """
        steps: list[tuple[str, float | Tensor | None]] = []
        now = self.start
        for func, args, kwargs, result in self.steps:
            if not any(t is now for t in _tensors((args, kwargs))):
                continue
            name, operands = func.__name__.strip("_"), list(args[1:])
            if kwargs or not args or args[0] is not now or len(operands) > 1 or not isinstance(result, Tensor):
                return None
            (operand,) = operands or [None]
            if isinstance(operand, Tensor):
                operand = operand.detach()
                if operand.numel() != operand.shape[-1:].numel():
                    return None
                operand = operand.reshape(-1)
            elif operand is not None and not isinstance(operand, int | float):
                return None
            if name not in ("contiguous", "float", "clone"):  # those change no number
                steps.append((name, operand))
            now = result
            if now is self.end:
                break
        return steps if now is self.end or not self.steps else None

    def __call__(self, output: Tensor) -> Tensor:
        """The logits [1, n, V] that the model makes of its head's `output` [1, n, V]."""
        now = {id(self.start): output}
        for func, args, kwargs, result in self.steps:
            if any(id(t) in now for t in _tensors((args, kwargs))):
                again = func(*_replaced(args, now), **_replaced(kwargs, now))
                now |= {id(old): new for old, new in zip(_tensors(result), _tensors(again), strict=True)}
        return now[id(self.end)]


def _signature(func: Any, args: Any, kwargs: Any, result: Any) -> tuple[Any, ...]:
    """A step by its function and what it is given, tensors by their dimensions alone."""
    given = [repr(value) for value in (*args, *sorted(kwargs.items())) if not any(True for _ in _tensors([value]))]
    return func, *given, *(tensor.dim() for tensor in _tensors([args, kwargs, result]))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _replaced(value: Any, now: Mapping[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return now.get(id(value), value)
    if type(value) in (list, tuple):
        return type(value)(_replaced(item, now) for item in value)
    if isinstance(value, dict):
        return {name: _replaced(item, now) for name, item in value.items()}
    return value


def _by_row(results: Sequence[Tensor], parts: Sequence[Tensor], groups: Sequence[Sequence[int]] | None) -> Tensor:
    """The results for each group's predictions [n, …], one after the other as the batch's rows are: [N, …]."""
    if groups is None:
        return results[0]
    device = results[0].device
    rows = [torch.tensor(g, device=device).repeat_interleave(p.sum(1)) for g, p in zip(groups, parts, strict=True)]
    return torch.cat(list(results))[torch.cat(rows).argsort(stable=True)]


def rows(outputs: Any, batch: Mapping[str, Any]) -> Rows:
    """The predictions in a model's outputs: selected already, or picked from logits [B, T, V]."""
    if isinstance(outputs, Selected):
        return outputs.rows
    return Dense(host_counts.at_predictions(outputs.logits, batch))


def _chosen(hidden: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """What the head reads of the predictions [N, H]; `order` [N] is each one's place among the marked positions, where
    that is another (`packing.py`)."""
    chosen = host_counts.at_predictions(hidden, batch)
    return chosen if (order := batch.get("order")) is None else chosen[order]


def _aligned(predicted: Tensor, seen: Tensor) -> Tensor:
    """`predicted` [B, T] among the positions of `seen` [B, K + T, …], of which the first K are before the text."""
    return torch.nn.functional.pad(predicted, (seen.shape[1] - predicted.shape[1], 0), value=False)
