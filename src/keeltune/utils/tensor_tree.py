"""Nested values with tensors in them as one safetensors file: the tensors, and the rest as JSON in its header.

No pickle: mappings with text keys, lists (and tuples, which come back as lists), numbers, text, true, false, null and
tensors; what is none of these is refused when it is written, by its place in the tree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

TENSOR = "$tensor"
"""The key of a mapping that stands for a tensor, by the name that it has in the file."""

TREE = "tree"
"""The entry of the header that holds the JSON."""


def save(value: Any, file: Path) -> None:
    """Writes a tree; tensors go to the CPU, each as it is. Raises TypeError for what it cannot hold."""
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_without_tensors(value, "", tensors))
    owned: dict[int, str] = {}
    for name, tensor in tensors.items():
        held = tensor.detach().cpu().contiguous()
        start = held.untyped_storage().data_ptr()
        tensors[name] = held.clone() if start in owned else held  # a file holds no memory twice
        owned[start] = name
    save_file(tensors, file, metadata={TREE: tree})


def load(file: Path) -> Any:
    """The tree that `save` wrote, its tensors on the CPU."""
    with safe_open(file, "pt") as stored:
        tree = json.loads(stored.metadata()[TREE])
        return _with_tensors(tree, {name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118


def tensors_of(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor of a tree, with its place in it."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from tensors_of(inner, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for key, inner in enumerate(value):
            yield from tensors_of(inner, f"{name}/{key}")


def _without_tensors(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value) and TENSOR not in value:
        return {key: _without_tensors(inner, f"{name}/{key}", tensors) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(inner, f"{name}/{number}", tensors) for number, inner in enumerate(value)]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{name}: found {type(value).__name__}, expected tensors, numbers, text, lists or mappings")


def _with_tensors(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {TENSOR}:
            return tensors[value[TENSOR]]
        return {key: _with_tensors(inner, tensors) for key, inner in value.items()}
    return [_with_tensors(inner, tensors) for inner in value] if isinstance(value, list) else value
