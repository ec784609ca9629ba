"""Whether a model's output on a text depends on the padding beside it, or on the texts beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from keeltune.tasks.common.padding_effect import (
    PaddingEffect,
    Sharing,
    differ,
    observed,
    pads_left,
    part,
    rounding,
    row_of,
)

UNREADABLE = (RuntimeError, ValueError, IndexError)
"""What a model raises over a length that it cannot read."""


class TextPadding(PaddingEffect):
    """Measured on a batch's longest text, cut to several lengths and padded again: pooling by two would see no
    difference at every second length. Then the whole batch is held against that text alone."""

    def __init__(self, tokenizer: Any):
        super().__init__()
        ids, segments = tokenizer.pad_token_id, tokenizer.pad_token_type_id
        self.fill = {"input_ids": ids, "decoder_input_ids": ids, "token_type_ids": segments}  # 0 for all others

    def measure(self, model: Any, batch: Mapping[str, Any]) -> Sharing:
        inputs = {name: value for name, value in batch["inputs"].items() if isinstance(value, Tensor)}
        shapes, left = batch["shapes"], pads_left(inputs)
        longest = max(range(len(shapes)), key=lambda i: sum(size[0] for size in shapes[i].values()))
        row = part(inputs, [longest], shapes[longest], left)
        read = [name for name in shapes[longest] if not name.startswith("decoder_")]
        written = [name for name in shapes[longest] if name.startswith("decoder_")]
        if self._padding_matters(model, row, read, left) or self._padding_matters(model, row, written, False):
            return "one length"
        if len(shapes) > 1:
            lengths = max(size[0] for size in shapes[longest].values())
            if differ(observed(model, row), row_of(observed(model, inputs), longest), lengths, left, rounding(model)):
                return "none"
        return "any"

    def _padding_matters(self, model: Any, row: Mapping[str, Tensor], names: list[str], left: bool) -> bool:
        cut = list(self._cut_and_padded(row, names, left))
        try:
            if self._same_side_by_side(model, cut, left):
                return False
        except UNREADABLE:
            pass
        for length, alone, padded in cut:
            try:
                outputs = observed(model, alone), observed(model, padded)
            except UNREADABLE:  # a length that the model cannot read is no length of the rows
                continue
            if differ(*outputs, length, left, rounding(model)):
                return True
        return False

    def _cut_and_padded(
        self, row: Mapping[str, Tensor], names: list[str], left: bool
    ) -> Iterator[tuple[int, dict[str, Tensor], dict[str, Tensor]]]:
        """Several lengths, and the row cut to each; and padded again to its own."""
        whole = max((row[name].shape[1] for name in names), default=0)
        for length in sorted({n for n in (whole - 1, whole - 2, whole - 3, whole // 2) if n > 0}):
            alone = {name: value[:, :length] if name in names else value for name, value in row.items()}
            padded = dict(alone)
            for name in names:
                room = alone[name].new_full((1, whole - length, *alone[name].shape[2:]), self.fill.get(name, 0))
                padded[name] = torch.cat([room, alone[name]] if left else [alone[name], room], 1)
            yield length, alone, padded

    def _same_side_by_side(
        self, model: Any, cut: Sequence[tuple[int, dict[str, Tensor], dict[str, Tensor]]], left: bool
    ) -> bool:
        """Whether all padded rows, in one pass, are what each is alone; where not, it may be for what lies beside."""
        if not cut:
            return True
        together = observed(model, {name: torch.cat([padded[name] for _, _, padded in cut]) for name in cut[0][2]})
        return not any(
            differ(observed(model, alone), row_of(together, index), length, left, rounding(model))
            for index, (length, alone, _) in enumerate(cut)
        )
