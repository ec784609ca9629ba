"""Architectures that write by a `generate` of their own, which `transformers`' general one cannot stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

KINDS = ("blip", "blip-2")
"""Those whose own `generate` hands picture and prompt to a decoder within, just as their `forward` does."""

UNSAID = ("transformers_version", "pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id")
"""Settings that they give their decoder themselves."""


def own_generate(model: Any) -> Callable[..., Tensor]:
    """A model's own `generate`, told the settings that it carries: its decoder has others of its own.

    BLIP's drops the last token of a prompt, so that it is given one more.
    """
    settings = {n: v for n, v in model.generation_config.to_diff_dict().items() if n not in UNSAID}

    def write(input_ids: Tensor, attention_mask: Tensor, **inputs: Any) -> Tensor:
        if model.config.model_type == "blip":
            input_ids, attention_mask = (torch.cat([t, t[:, -1:]], dim=1) for t in (input_ids, attention_mask))
        ids: Tensor = model.generate(input_ids=input_ids, attention_mask=attention_mask, **{**settings, **inputs})
        return ids

    return write


def writes_in_its_own_way(config: Any) -> bool:
    """Whether an architecture has a `generate` of its own, which may show the decoder something else than training."""
    from transformers import AutoModelForImageTextToText, GenerationMixin

    model_class = AutoModelForImageTextToText._model_mapping[type(config)]
    if config.model_type in KINDS:
        return False
    return model_class.generate is not GenerationMixin.generate
