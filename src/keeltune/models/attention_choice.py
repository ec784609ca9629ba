"""How attention is computed (`training.attention`): asked of transformers, set, and looked at."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from keeltune.models.loading import quiet_transformers, skeleton
from keeltune.utils.errors import Problem

HALF_ALONE = ("flash_attention_2", "flash_attention_3")
"""Attention that takes no full precision."""

IN_FULL = "sdpa"
"""What stands in for it where a model is asked in full precision, as for every score that is reported."""


def attention_problem(config: Any, auto_model: str, name: str, where: str) -> Problem | None:
    """Why a model of this configuration, on this machine, cannot compute its attention so; no weight is loaded."""
    try:
        _set(skeleton(config, auto_model, where, "training.attention"), name)
    except (ValueError, ImportError) as error:
        found = f"{name}, for {config.model_type}: {' '.join(str(error).split())[:200]}"
        expected = "attention that this model has in transformers, and that this machine can compute"
        return Problem(where, "training.attention", found, expected, "write attention: auto, or eager")
    return None


def choose_attention(model: Any, name: str) -> None:
    """From now on the model, all its parts, computes attention so. ValueError, ImportError: it cannot."""
    _set(model, name)
    if name in HALF_ALONE:
        for part in _parts(model):
            part.register_forward_pre_hook(_in_full)
            part.register_forward_hook(lambda part, *_: _put(part, name), always_call=True)


def _set(model: Any, name: str) -> None:
    if name in HALF_ALONE and not _has_flash(name):
        # transformers would fetch a kernel from the hub, and run what it fetched
        lacking = "its package (flash-attn) is not installed" if torch.cuda.is_available() else "no GPU is here"
        raise ImportError(lacking)
    with quiet_transformers():
        model.set_attn_implementation(name)
    if other := sorted({_of(part) for part in _parts(model)} - {name}):
        raise ValueError(f"{type(model).__name__} has attention of its own in place of it ({', '.join(other)})")


def _has_flash(name: str) -> bool:
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    return bool(is_flash_attn_2_available() if name.endswith("2") else is_flash_attn_3_available())


def _parts(model: Any) -> list[Any]:
    from transformers import PreTrainedModel

    return [module for module in model.modules() if isinstance(module, PreTrainedModel)]


def _of(part: Any) -> str:
    return str(part.config._attn_implementation)


def _in_full(part: nn.Module, arguments: Any) -> None:
    """Before a call: whatever takes half precision alone steps back where numbers are in full precision."""
    weight = next(w for w in part.parameters() if w.is_floating_point())
    if weight.dtype == torch.float32 and not torch.is_autocast_enabled(weight.device.type):
        _put(part, IN_FULL)


def _put(part: Any, name: str) -> None:
    with quiet_transformers():
        part.set_attn_implementation(name)
