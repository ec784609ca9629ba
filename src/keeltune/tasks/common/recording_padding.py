"""Whether a model's output on a recording depends on the padding behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from keeltune.tasks.common.padding_effect import PaddingEffect, Sharing, rounding
from keeltune.tasks.common.recordings import Recordings

PROBES = 4
"""Lengths at which padding is tried."""


class RecordingPadding(PaddingEffect):
    """Measured on a batch's longest recording, cut to several lengths, alone and in twice the room."""

    row = "recordings"

    def __init__(self, recordings: Recordings, framewise: bool):
        super().__init__()
        self.recordings, self.framewise = recordings, framewise

    def measure(self, model: Any, batch: Mapping[str, Any]) -> Sharing:
        """ "one length" where the output changes with the padding: there is no mask, or the mask is not enough."""
        shapes = batch["shapes"]
        masks = [name for name in shapes[0] if name.endswith("mask")]
        if not masks:
            return "one length"
        frames = self.recordings.frames
        sizes = [shape[masks[0]][0] for shape in shapes]
        longest = max(range(len(sizes)), key=sizes.__getitem__)
        whole = {k: v[longest : longest + 1] for k, v in batch["inputs"].items() if isinstance(v, Tensor)}
        whole = {k: v[:, : sizes[longest]] if k in shapes[0] else v for k, v in whole.items()}
        step = sizes[longest] // max(1, frames(sizes[longest])) + 1
        lengths = [size for k in range(PROBES) if frames(size := sizes[longest] - k * step) > 0]
        return "one length" if any(self._differs(model, whole, shapes[0], length) for length in lengths) else "any"

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
        return bool((a - b).abs().max() > rounding(model) * a.abs().max())
