"""A model's weights and buffers by their names: those that a training changes, and how they are put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from keeltune.utils.sharded_tensors import local, put_whole


def weights_that_change(model: nn.Module, optimizer: Any = None) -> dict[str, Tensor]:
    """Those that train, or ever did."""
    groups = optimizer.param_groups if optimizer is not None else []
    stepped = {id(weight) for group in groups for weight in group["params"]}
    return {name: w.detach() for name, w in model.named_parameters() if w.requires_grad or id(w) in stepped}


@torch.no_grad()
def load_tensors(model: nn.Module, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
    """Weights and buffers into a model, by their names; a buffer's size may have grown with the batches.

    Into a sharded weight its part, or all of it, of which the part is taken.
    """
    every = dict(model.named_parameters())
    for name, value in weights.items():
        if value.shape == every[name].shape:
            put_whole(every[name], value)
        else:
            local(every[name]).copy_(value)
    for name, value in buffers.items():
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        held = getattr(module, own, None)
        if isinstance(held, Tensor):
            setattr(module, own, value.to(held.device))
