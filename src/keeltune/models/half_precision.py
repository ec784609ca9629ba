"""Modules held in half precision beside others in float32: each reads in the precision that holds it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WITHOUT = ("xlnet",)
"""Types of models whose code mixes its weights with float32 numbers of its own; of some 60 tried, no other does."""

HALF = (torch.float16, torch.bfloat16)


def reads_in_its_dtype(module: nn.Module) -> None:
    """From now on floating tensors that the module is called with have the dtype of its weights."""
    module.register_forward_pre_hook(_cast, with_kwargs=True)


def reads_sound_and_pictures(model: Any) -> None:
    """A whole model in half precision takes features in float32, also where its encoder is called by itself."""
    for module in (model, *([model.get_encoder()] if getattr(model.config, "is_encoder_decoder", False) else [])):
        reads_in_its_dtype(module)


def train_in_float32(model: nn.Module) -> None:
    """What trains is float32, whatever holds the rest."""
    for weight in model.parameters():
        if weight.requires_grad and weight.dtype in HALF:
            weight.data = weight.data.float()


def _cast(
    module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    dtype = next(weight.dtype for weight in module.parameters() if weight.is_floating_point())

    def fit(value: Any) -> Any:
        if type(value) is list:  # batches whose rows run apart (`tasks/common/padding_effect.py`)
            return [fit(item) for item in value]
        if type(value) is dict:
            return {name: fit(item) for name, item in value.items()}
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    return tuple(map(fit, arguments)), fit(named)
