"""Short texts one behind the other in a sequence, none of which reads another: a batch without its padding.

    rows       a b c - - -      sequences   d e f g h i      position ids   0 1 2 3 4 5
               d e f g h i                  a b c j k -                     0 1 2 0 1 0
               j k - - - -

A batch stays what it is: the same examples, counts, targets and predictions in the same order. Only how the model reads
it in a forward pass changes. Positions start again with each text, from which `transformers` makes the mask (of blocks,
within a sliding window where a layer has one; FlexAttention and FlashAttention get it in their own form), so that it is
the model's own attention on each text alone. A model to which that says nothing, as it keeps a state across tokens or
numbers positions by itself, would mix the texts: each is tried once before it is handed any (`Packing.reason`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from keeltune.models.attention_choice import HALF_ALONE
from keeltune.objective.predictions import Dense
from keeltune.tasks.common import lm_head
from keeltune.tasks.common.padding_effect import ROUGH, observed, rounding
from keeltune.utils.device import in_eval_mode

READ = frozenset({"input_ids", "attention_mask"})
"""What a packed model reads of a row; pictures or sound have no place among tokens of others."""

BY_TEXT = (*HALF_ALONE, "flex_attention")
"""Attention whose time grows with Σ length² of the texts, however long the sequence that they lie in."""

LONGEST = 8
"""The length of a sequence at most, in longest texts."""

_log = logging.getLogger(__name__)


def bins(lengths: Sequence[int], room: int) -> list[list[int]]:
    """The indices of texts that share a sequence of at most `room` tokens: the longest first, each where it still fits.

    Source: first-fit decreasing, at most 11/9 of the fewest sequences (Johnson 1973).
    """
    filled: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((place for place, left in enumerate(free) if left >= lengths[index]), None)
        if place is None:
            filled.append([index])
            free.append(room - lengths[index])
        else:
            filled[place].append(index)
            free[place] -= lengths[index]
    return filled


def layout(lengths: Sequence[int], config: Any) -> tuple[list[list[int]], int]:
    """Which texts share a sequence, and the sequences' length L, for a model of this configuration.

    Longer sequences end with less padding, and attention that is computed whole before it is masked costs more in them:
    of a layer of width H, 24 H² operations a token in products of weights, 4 L H in attention. L is the multiple of
    the longest text that makes slots · (6 H + L) smallest.
    """
    if getattr(config, "_attn_implementation", None) in BY_TEXT:
        return [list(range(len(lengths)))], sum(lengths)
    width, longest = config.get_text_config().hidden_size, max(lengths)
    rooms = [longest * times for times in range(1, 1 + max(1, min(LONGEST, sum(lengths) // longest)))]
    layouts = [(bins(lengths, room), room) for room in rooms]
    return min(layouts, key=lambda made: len(made[0]) * made[1] * (6 * width + made[1]))


def slots(lengths: Sequence[int], config: Any) -> int:
    """The tokens and the padding of texts as they are laid out."""
    sequences, room = layout(lengths, config)
    return len(sequences) * room


def packed(inputs: Mapping[str, Tensor], predicted: Tensor, config: Any) -> dict[str, Any]:
    """A batch's rows as sequences: `inputs` (ids and positions [P, L]), `predicted` [P, L], `order` [N].

    `config` is the model's. `order[i]` is the place of the batch's prediction i among those of the sequences.
    """
    mask = inputs["attention_mask"].bool()
    lengths = mask.sum(1).tolist()
    sequences, room = layout(lengths, config)
    starts = [0] * len(lengths)
    for number, rows in enumerate(sequences):
        for row, before in zip(rows, accumulate((lengths[row] for row in rows), initial=0), strict=False):
            starts[row] = number * room + before
    positions = (mask.cumsum(1) - 1)[mask]
    places = torch.tensor(starts, device=mask.device)[mask.nonzero()[:, 0]] + positions

    def laid(values: Tensor) -> Tensor:
        return values.new_zeros(len(sequences) * room).index_put((places,), values).view(len(sequences), room)

    named = {"input_ids": laid(inputs["input_ids"][mask]), "position_ids": laid(positions)}
    marked = predicted[mask]
    order = places[marked].argsort().argsort()
    # a cache would hide from `transformers` where texts begin
    return {"inputs": {**named, "use_cache": False}, "predicted": laid(marked), "order": order}


class Packing:
    """Runs batches packed, of models that read texts packed as they read them alone."""

    def __init__(self) -> None:
        self._reasons: WeakKeyDictionary[Any, str] = WeakKeyDictionary()

    def reason(self, model: Any, batch: Mapping[str, Any]) -> str:
        """Why a model would read the texts of this batch otherwise packed; empty where it would not. Tried once, on a
        text of the batch cut in two: eval mode, no gradient."""
        if beside := batch["inputs"].keys() - READ:
            return f"it reads more than tokens: {', '.join(sorted(beside))}"
        inner = getattr(model, "module", model)
        if inner not in self._reasons:
            kind = batch["inputs"]["input_ids"].device.type
            half = _attention(inner) in HALF_ALONE  # else in full precision
            with in_eval_mode(inner), torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=half):
                self._reasons[inner] = reason = _why_not(inner, batch["inputs"])
            if reason:
                _log.warning("%s reads texts one by one, not packed: %s", type(inner).__name__, reason)
        return self._reasons[inner]

    def forward(self, model: Any, batch: Mapping[str, Any]) -> lm_head.Selected:
        """The model's outputs on the packed batch; the logits are those of its predictions, in the batch's order."""
        inner = getattr(model, "module", model)
        inputs = {name: value for name, value in batch["inputs"].items() if isinstance(value, Tensor)}
        shorter = packed(inputs, batch["predicted"], inner.config)
        outputs = lm_head.forward(model, shorter)
        if isinstance(outputs, lm_head.Selected):
            return outputs
        return lm_head.Selected(Dense(outputs.logits[shorter["predicted"]][shorter["order"]]), [outputs])


def _attention(model: Any) -> str:
    return str(getattr(model.config, "_attn_implementation", None))


def _why_not(model: Any, inputs: Mapping[str, Tensor]) -> str:
    if getattr(model, "_is_stateful", False):
        return "it keeps a state across tokens, also from one text into the next"
    mask = inputs["attention_mask"].bool()
    longest = int(mask.sum(1).argmax())
    ids = inputs["input_ids"][longest][mask[longest]]
    if len(ids) < 3:
        ids = ids.repeat(3)
    cut = max(1, len(ids) // 2 - 1)
    parts = [ids[:cut], ids[cut:]]
    positions = torch.cat([torch.arange(len(part), device=ids.device) for part in parts])
    try:
        alone = observed(model, {"input_ids": parts[1][None], "use_cache": False}).logits[0]
        together = {"input_ids": ids[None], "position_ids": positions[None], "use_cache": False}
        behind = observed(model, together).logits[0, cut:]
    except (TypeError, ValueError, RuntimeError) as error:
        return f"it takes no position ids: {' '.join(str(error).split())[:200]}"
    least = ROUGH if _attention(model) in HALF_ALONE else rounding(model)
    if alone.shape == behind.shape and bool((alone - behind).abs().max() <= least * alone.abs().max()):
        return ""
    return "a text behind another one is read otherwise than alone: positions or attention do not start again"
