"""Whether what a model computes for a row depends on the rows beside it; batches of rows that run apart where it does.

A mask keeps attention from padding. It does not keep a convolution, a Fourier transform, a pooling or landmarks over
the whole length from it, nor experts of limited capacity from other rows' tokens. Then 4 rows are not 2 × 2, and a row
is scored otherwise alone than in a batch. So it is measured, once a model, and such rows run apart.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from keeltune.tasks.common import lm_head
from keeltune.utils.device import in_eval_mode
from keeltune.utils.sharded_tensors import is_sharded

TOLERANCE = 2e-5
"""The relative difference of outputs above which it is no rounding."""

ROUGH = 3e-2
"""The same, of a model that is held in half precision."""

Sharing = Literal["any", "one length", "none"]
"""Which rows may share a forward pass: any, those of one length, or none."""

_log = logging.getLogger(__name__)


class PaddingEffect(ABC):
    """Of each model, which rows may share a forward pass.

    `framewise`: whether the outputs are frames, of which those behind the row's own are not looked at.
    """

    framewise = False
    row: ClassVar[str] = "rows"

    def __init__(self) -> None:
        self._measured: WeakKeyDictionary[Any, Sharing] = WeakKeyDictionary()

    @abstractmethod
    def measure(self, model: Any, batch: Mapping[str, Any]) -> Sharing:
        """Which rows may share a forward pass, by trial on a batch; eval mode, no gradient, full precision."""

    def sharing(self, model: Any, batch: Mapping[str, Any]) -> Sharing:
        """What was measured of this model, now or before."""
        inner = getattr(model, "module", model)
        if inner not in self._measured:
            kind = next(v for v in batch["inputs"].values() if isinstance(v, Tensor)).device.type
            precisely = torch.autocast(kind, enabled=False), torch.backends.cudnn.flags(allow_tf32=False)
            with in_eval_mode(inner), torch.no_grad(), precisely[0], precisely[1]:
                self._measured[inner] = found = self.measure(inner, batch)
            if found != "any":
                say(type(inner).__name__, self.row, found)
        return self._measured[inner]

    def groups(self, model: Any, batch: Mapping[str, Any]) -> list[list[int]]:
        """Indices in a batch, those together that share a forward pass."""
        count = len(batch["shapes"])
        by_length = groups_of_one_length(batch["shapes"])
        if count == 1 or (len(by_length) == 1 and self.row == "recordings"):
            return by_length
        found = self.sharing(model, batch)
        if found == "none":
            return [[index] for index in range(count)]
        return by_length if found == "one length" else [list(range(count))]

    def matters(self, model: Any, batch: Mapping[str, Any]) -> bool:
        """Whether the rows of this batch must not share one forward pass."""
        return len(self.groups(model, batch)) > 1

    def forward(self, model: Any, batch: Mapping[str, Any], *, selects: bool = False) -> Any:
        """The model's outputs, the groups run apart in one call of it; `selects`: its head sees the predictions alone.

        Outputs of several groups are joined as one batch's would be, padded with zeros.
        """
        groups = self.groups(model, batch)
        if len(groups) == 1:
            return lm_head.forward(model, batch) if selects else model(**batch["inputs"])
        if is_sharded(model):
            kind = type(model).__name__
            raise RuntimeError(f"rows of {kind} run apart, which a model in shards cannot do; train without them")
        inputs = {name: value for name, value in batch["inputs"].items() if isinstance(value, Tensor)}
        left = pads_left(inputs)
        parts = [part(inputs, group, batch["shapes"][group[0]], left) for group in groups]
        if selects:
            outputs = lm_head.forward(model, batch, groups=groups, run=lambda: _outputs_of_each(model, parts))
            if isinstance(outputs, lm_head.Selected):
                return outputs
        else:
            outputs = _outputs_of_each(model, parts)
        order = torch.tensor([index for group in groups for index in group]).argsort()
        return _together(outputs, order, left)


class Unmeasured(PaddingEffect):
    """Any rows share a forward pass."""

    def measure(self, model: Any, batch: Mapping[str, Any]) -> Sharing:
        return "any"


@cache
def say(kind: str, row: str, found: Sharing) -> None:
    """Once a process: that a kind of model is slower than it might be, and why."""
    apart = f"{row} of one length run together" if found == "one length" else f"each of the {row} runs alone"
    _log.warning("%s computes %s otherwise beside others: %s", kind, row, apart)


def groups_of_one_length(shapes: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Indices in a batch, those together whose inputs have one length."""
    groups: dict[Any, list[int]] = {}
    for index, lengths in enumerate(shapes):
        groups.setdefault(tuple(sorted(lengths.items())), []).append(index)
    return list(groups.values())


def pads_left(inputs: Mapping[str, Tensor]) -> bool:
    """Whether a batch's shorter rows are padded before their first token."""
    mask = inputs.get("attention_mask")
    return mask is not None and mask.dim() == 2 and not bool(mask[:, 0].all())


def part(inputs: Mapping[str, Tensor], group: Sequence[int], shape: Mapping[str, Any], left: bool) -> dict[str, Tensor]:
    """The batch's rows of the group, their padding cut off."""
    chosen = {name: value[torch.tensor(group, device=value.device)] for name, value in inputs.items()}
    cut = {}
    for name, value in chosen.items():
        sizes = shape.get(name, ())
        from_end = left and not name.startswith("decoder_")
        slices = (slice(v - n if from_end else 0, v if from_end else n) for v, n in zip(value.shape[1:], sizes))  # noqa: B905
        cut[name] = value[(slice(None), *slices)]
    return cut


def rounding(model: Any) -> float:
    """The relative difference of a model's outputs above which it is no rounding."""
    dtypes = {weight.dtype for weight in model.parameters()}
    return ROUGH if dtypes & {torch.float16, torch.bfloat16} else TOLERANCE


def differ(a: Any, b: Any, length: int, left: bool = False, least: float = TOLERANCE) -> bool:
    """Whether the outputs of one row differ by more than rounding, `least`, at its own `length` places; NaN differs."""
    for name in OUTPUTS:
        if (x := getattr(a, name, None)) is None or (y := getattr(b, name, None)) is None:
            continue
        if x.shape[1] != y.shape[1]:  # padded positions have outputs of their own
            n = min(length, x.shape[1])
            x, y = (x[:, -n:], y[:, -n:]) if left else (x[:, :n], y[:, :n])
        if not bool((x - y).abs().max() <= least * x.abs().max()):
            return True
    return False


def observed(model: Any, inputs: Mapping[str, Any]) -> Any:
    """The model's outputs; of one that chooses from a vocabulary what its head reads in their place.

    The head takes each position by itself, so what it reads says as much, and [B, T, V] never exists.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        return model(**inputs)
    seen: list[Tensor] = []

    def first_alone(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if arguments[0].dim() != 3:
            return None
        seen.append(arguments[0])
        return (arguments[0][:, :1], *arguments[1:])

    handle = head.register_forward_pre_hook(first_alone)
    try:
        outputs = model(**inputs)
    finally:
        handle.remove()
    return SimpleNamespace(logits=seen[-1]) if seen else outputs


def row_of(outputs: Any, index: int) -> Any:
    """The outputs of one row of a batch."""
    named = {name: getattr(outputs, name, None) for name in OUTPUTS}
    return SimpleNamespace(**{n: v[index : index + 1] for n, v in named.items() if v is not None})


OUTPUTS = ("logits", "start_logits", "end_logits")
"""What predictions are made of."""


def _together(outputs: Sequence[Any], order: Tensor, left: bool) -> Any:
    """Outputs of groups as those of one batch whose rows were in this order before."""

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        width = max(t.shape[1] for t in tensors)
        rooms = [(width - t.shape[1], 0) if left else (0, width - t.shape[1]) for t in tensors]
        padded = [functional.pad(t, (*(0, 0) * (t.dim() - 2), *room)) for t, room in zip(tensors, rooms, strict=True)]
        return torch.cat(padded)[order.to(tensors[0].device)]

    names = [name for name in OUTPUTS if getattr(outputs[0], name, None) is not None]
    return SimpleNamespace(**{name: joined([getattr(output, name) for output in outputs]) for name in names})


def _outputs_of_each(model: Any, parts: Sequence[Mapping[str, Tensor]]) -> list[Any]:
    """The model's outputs for each part, inside one call of it: DDP waits for as many calls on every process."""
    inner = getattr(model, "module", model)
    patched, forward = "forward" in vars(inner), inner.forward
    inner.forward = lambda parts: [forward(**part) for part in parts]
    try:
        outputs: list[Any] = model(parts=list(parts))
    finally:
        if patched:
            inner.forward = forward
        else:
            del inner.forward
    return outputs
