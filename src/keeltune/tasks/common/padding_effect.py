"""Whether a model's output on a recording depends on the padding behind it, and batches of recordings where it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from keeltune.tasks.common import lm_head
from keeltune.tasks.common.recordings import Recordings
from keeltune.utils.device import in_eval_mode

PROBES, TOLERANCE = 4, 2e-5
"""Lengths at which padding is tried, and the relative difference of outputs above which it is no rounding."""


class PaddingEffect:
    """Of each model, whether recordings of several lengths must run apart.

    `framewise`: whether the outputs are frames, of which those behind the recording's own are not looked at.
    """

    def __init__(self, recordings: Recordings, framewise: bool):
        self.recordings, self.framewise = recordings, framewise
        self._measured: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()

    def matters(self, model: Any, batch: Mapping[str, Any]) -> bool:
        """Whether recordings of several lengths must not share this batch."""
        if len(groups_of_one_length(batch["notes"])) == 1:
            return False
        inner = getattr(model, "module", model)
        if inner not in self._measured:
            self._measured[inner] = self._measure(inner, batch)
        return self._measured[inner]

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        """The model's outputs, the recordings of each length run apart, in one call of it."""
        groups = groups_of_one_length(batch["notes"])
        inputs = {name: value for name, value in batch["inputs"].items() if isinstance(value, Tensor)}
        parts = [_part(inputs, group, batch["notes"][group[0]]["shapes"]) for group in groups]
        if self.framewise:
            outputs = _outputs_of_each(model, parts)
        else:
            outputs = lm_head.forward(model, batch, groups=groups, run=lambda: _outputs_of_each(model, parts))
            if isinstance(outputs, lm_head.Selected):
                return outputs
        width = max(output.logits.shape[1] for output in outputs)
        logits = torch.cat([functional.pad(o.logits, (0, 0, 0, width - o.logits.shape[1])) for o in outputs])
        order = torch.tensor([index for group in groups for index in group]).argsort()
        return SimpleNamespace(logits=logits[order.to(logits.device)])

    def _measure(self, model: Any, batch: Mapping[str, Any]) -> bool:
        """Whether the model's output changes where a recording is padded: it has no mask, or the mask is not enough.

        Measured on the batch's longest recording, cut to several lengths, alone and in twice the room. Eval mode, no
        gradient, full precision, the random state untouched.
        """
        shapes = [note["shapes"] for note in batch["notes"]]
        masks = [name for name in shapes[0] if name.endswith("mask")]
        if not masks:
            return True
        frames = self.recordings.frames
        sizes = [shape[masks[0]][0] for shape in shapes]
        longest = max(range(len(sizes)), key=sizes.__getitem__)
        whole = {k: v[longest : longest + 1] for k, v in batch["inputs"].items() if isinstance(v, Tensor)}
        whole = {k: v[:, : sizes[longest]] if k in shapes[0] else v for k, v in whole.items()}
        step = sizes[longest] // max(1, frames(sizes[longest])) + 1
        lengths = [size for k in range(PROBES) if frames(size := sizes[longest] - k * step) > 0]
        kind = next(iter(whole.values())).device.type
        precisely = torch.autocast(kind, enabled=False), torch.backends.cudnn.flags(allow_tf32=False)
        with in_eval_mode(model), torch.no_grad(), precisely[0], precisely[1]:
            return any(self._differs(model, whole, shapes[0], length) for length in lengths)

    def _differs(self, model: Any, whole: Mapping[str, Tensor], known: Mapping[str, Any], size: int) -> bool:
        alone = {k: v[:, :size] if k in known else v for k, v in whole.items()}
        padded = dict(alone)
        for name in known:
            fill = 0 if name.endswith("mask") else float(self.recordings.extractor.padding_value)
            room = alone[name].new_full((1, size, *alone[name].shape[2:]), fill)
            padded[name] = torch.cat([alone[name], room], 1)
        a, b = model(**alone).logits, model(**padded).logits
        if self.framewise:
            mask = next(v for k, v in alone.items() if k.endswith("mask"))
            n = self.recordings.frames(int(mask.sum()))
            a, b = a[:, :n], b[:, :n]
        return bool((a - b).abs().max() > TOLERANCE * a.abs().max())


def groups_of_one_length(notes: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Indices in a batch, those together whose recordings have one length."""
    groups: dict[Any, list[int]] = {}
    for index, note in enumerate(notes):
        groups.setdefault(tuple(sorted(note["shapes"].items())), []).append(index)
    return list(groups.values())


def _part(inputs: Mapping[str, Tensor], group: Sequence[int], shapes: Mapping[str, Any]) -> dict[str, Tensor]:
    """The batch's rows of the group, their padding cut off."""
    chosen = {name: value[torch.tensor(group, device=value.device)] for name, value in inputs.items()}
    return {n: v[(slice(None), *(slice(s) for s in shapes[n]))] if n in shapes else v for n, v in chosen.items()}


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
