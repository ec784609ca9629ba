"""Weights that two models have in common, held once.

A frozen base is the same in the student, which learns an adapter on it, and in a reference that is an adapter on the
same base. Each model keeps parameters of its own, as one of them may be trained and the other not; what lies under them
is one storage. Nothing is assumed of where a model comes from: what is shared has been compared, number by number.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

WRAPPED = re.compile(r"\.(base_layer|original_module)(?=\.)")
"""What PEFT puts between a module's name and its weight's, once an adapter lies on it."""

OF_ADAPTER = re.compile(r"\.(lora_|modules_to_save\.)")
"""In the names of weights that train."""


def share(model: nn.Module, other: nn.Module) -> int:
    """Each weight of `model` that is equal to that of `other` with the same name becomes that; the bytes saved.

    The weights of `other` must stay as they are for as long as `model` is asked (`own`).
    """
    theirs = dict(frozen_weights(other))
    saved, taken = 0, dict[int, nn.Parameter]()
    for name, weight in list(frozen_weights(model)):
        found = theirs.get(name)
        if found is not None and _equal(weight, found) and id(weight) not in taken:
            taken[id(weight)] = _on_the_storage_of(found)
            saved += weight.numel() * weight.element_size()
    _replace(model, taken)
    return saved


def copy_of(model: Any) -> Any:
    """A copy of a model whose frozen weights are the model's own; those that an adapter trains are copied."""
    shared = {id(weight): _on_the_storage_of(weight) for _, weight in frozen_weights(model)}
    return copy.deepcopy(model, dict[int, Any](shared))


def own(model: nn.Module, other: nn.Module) -> None:
    """What `model` shares with `other` it holds by itself from now on: those are about to change."""
    places = {weight.data_ptr() for weight in other.parameters()}
    shared = {id(w): nn.Parameter(w.detach().clone(), requires_grad=False) for w in model.parameters()
              if w.data_ptr() in places}  # fmt: skip
    _replace(model, shared)


def frozen_weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights of a base by the names that they have without an adapter, tied ones under each of theirs."""
    for name, weight in model.named_parameters(remove_duplicate=False):
        if not OF_ADAPTER.search(name):
            yield WRAPPED.sub("", name), weight


def _on_the_storage_of(weight: nn.Parameter) -> nn.Parameter:
    """A parameter of its own; a quantised one as it is, which never trains and carries its scales with it."""
    return weight if type(weight) is not nn.Parameter else nn.Parameter(weight.detach(), requires_grad=False)


def _equal(mine: Tensor, theirs: Tensor) -> bool:
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return False
    if (quantised := getattr(theirs, "quant_state", None)) is not None:
        scales = getattr(getattr(mine, "quant_state", None), "absmax", None)
        if scales is None or not torch.equal(scales.to(theirs.device), quantised.absmax):
            return False
    return torch.equal(mine.detach().to(theirs.device), theirs.detach())


def _replace(model: nn.Module, new: dict[int, nn.Parameter]) -> None:
    """Puts parameters in the places of others, known by identity; tied ones stay tied."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and id(weight) in new:
                module._parameters[name] = new[id(weight)]
