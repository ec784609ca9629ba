"""A vocabulary head that sees the predictions alone, and is applied in slices where [N, V] would be large.

Of a batch's [B, T] positions only some are predictions: prompts and padding are not. A forward pre-hook on the head
hands it those positions only, inside the model's own `forward`: no model code, no wrapper passed by, value and gradient
unchanged. Where N × V numbers are many, the hook keeps the head's input and lets one position pass; the head is then
applied slice by slice (`rows.Projected`). What a model does after its head (a bias, a cap, a scale) is inside the one
position's logits; where these differ from the head's own, the model is run whole, and said so once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from keeltune.rows import Dense, Projected, Rows

LARGE = 2**26
"""Numbers of [N, V] from which the head is applied in slices: 256 MiB in float32, several times over in training."""

_log = logging.getLogger(__name__)
_uncuttable: WeakSet[Any] = WeakSet()
"""Models whose logits are not their head's output alone."""


@dataclass
class Selected:
    """A model's outputs whose logits are those of the predictions alone."""

    rows: Rows
    outputs: Any


def forward(model: Any, batch: Mapping[str, Any], large: int | None = None) -> Any:
    """`model(**batch["inputs"])`, its head applied to `batch["places"]` [B, T] bool alone: `Selected`.

    `large` (default `LARGE`) is the N × V from which the head is applied in slices. A model without output embeddings,
    or whose head does not see [B, T] positions, is run as it is and its outputs are returned. Positions that a model
    puts before the text (those of a picture) are no predictions.
    """
    large = LARGE if large is None else large
    inner = getattr(model, "module", model)
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if head is None:
        return model(**batch["inputs"])
    places: Tensor = batch["places"]
    width = getattr(head, "out_features", None) or head.weight.shape[0]
    n = int(places.sum())
    sliced = n > 1 and n * width > large and inner not in _uncuttable
    seen: list[Tensor] = []

    def select(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = arguments[0]
        if hidden.dim() != 3 or len(hidden) != len(places) or hidden.shape[1] < places.shape[1]:
            return None
        chosen = hidden[_behind(places, hidden)]
        seen.append(chosen)
        return ((chosen[:1] if sliced else chosen)[None], *arguments[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        outputs = model(**batch["inputs"])
    finally:
        handle.remove()
    if not seen:
        return outputs
    logits = outputs.logits[0]  # [N, V], or [1, V]
    if not sliced:
        return Selected(Dense(logits), outputs)
    apply = _as_it_ran(head, logits)
    with torch.no_grad():
        same = torch.allclose(apply(seen[0][:1]), logits, rtol=1e-5, atol=1e-6)
    if not same:
        _uncuttable.add(inner)
        _log.warning("%s changes its head's output: the head is not applied in slices", type(inner).__name__)
        return forward(model, batch, large)
    # the one position's logits stay in the graph at weight 0, as DDP wants each parameter used inside the forward pass
    hidden = seen[0] + 0.0 * logits.sum().to(seen[0].dtype)
    return Selected(Projected(hidden, apply, logits.shape[-1]), outputs)


def _as_it_ran(head: Any, like: Tensor) -> Callable[[Tensor], Tensor]:
    """The head in the autocast that is on now: slices are read outside of it."""
    kind = like.device.type
    if not torch.is_autocast_enabled(kind):
        return lambda hidden: head(hidden)
    dtype = torch.get_autocast_dtype(kind)

    def apply(hidden: Tensor) -> Tensor:
        context: AbstractContextManager[Any] = torch.autocast(kind, dtype=dtype) if kind else nullcontext()
        with context:
            result: Tensor = head(hidden)
        return result

    return apply


def rows(outputs: Any, batch: Mapping[str, Any]) -> Rows:
    """The predictions in a model's outputs: selected already, or picked from logits [B, T, V]."""
    if isinstance(outputs, Selected):
        return outputs.rows
    return Dense(outputs.logits[_behind(batch["places"], outputs.logits)])


def _behind(places: Tensor, seen: Tensor) -> Tensor:
    """`places` [B, T] among the positions of `seen` [B, K + T, …], of which the first K are before the text."""
    return torch.nn.functional.pad(places, (seen.shape[1] - places.shape[1], 0), value=False)
