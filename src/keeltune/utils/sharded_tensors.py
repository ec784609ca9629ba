"""Weights of which each process holds a part (torch's `DTensor`, made by `fully_shard`), and what is done with them.

A sharded weight [n, …] lies in rows: of w processes, process r holds the r-th of `torch.chunk(weight, w)`, its `local`
tensor, which has no rows where n < w. Where nothing is sharded each function here is the identity, or nearly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from keeltune.utils.current_watch import operation
from keeltune.utils.distributed import is_main_process


def is_sharded(model: Any) -> bool:
    """Whether the processes hold a part each of this model: who has not imported FSDP has none."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)


def is_part(tensor: Tensor) -> bool:
    """Whether this process holds a part of it."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(tensor, tensors.DTensor)


def local(tensor: Any) -> Any:
    """What this process holds of a tensor, in the same memory: all of it where it is not sharded."""
    return tensor.to_local() if is_part(tensor) else tensor


def local_tree(value: Any) -> Any:
    """A tree of mappings and lists with the `local` of each tensor."""
    if isinstance(value, Tensor):
        return local(value)
    if isinstance(value, Mapping):
        return {name: local_tree(inner) for name, inner in value.items()}
    return [local_tree(inner) for inner in value] if isinstance(value, list | tuple) else value


def like(weight: Tensor, held: Tensor) -> Tensor:
    """`held`, this process's part of a tensor of the shape of `weight`, as a tensor that is sharded as that is."""
    if not is_part(weight):
        return held
    from torch.distributed.tensor import DTensor

    mesh, placements = weight.device_mesh, weight.placements  # type: ignore[attr-defined]
    held = held.to(weight.to_local().device)  # type: ignore[attr-defined]
    made: Tensor = DTensor.from_local(
        held, mesh, placements, run_check=False, shape=weight.shape, stride=weight.stride()
    )
    return made


@torch.no_grad()
def put_whole(weight: Tensor, value: Tensor) -> None:
    """Copies a whole tensor, which every process has, into a weight."""
    if is_part(weight):
        from torch.distributed.tensor import distribute_tensor

        whole = value.to(weight.to_local().device, weight.dtype)  # type: ignore[attr-defined]
        mesh, placements = weight.device_mesh, weight.placements  # type: ignore[attr-defined]
        # no source process: each takes its own part of what it has, and nothing is sent
        value = distribute_tensor(whole, mesh, placements, src_data_rank=None).to_local()
    local(weight).copy_(value)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. All processes must ask for it, in the same order."""
    if not is_part(tensor):
        return tensor
    with operation():
        made: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return made


def gathered_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All of each tensor on the CPU of the first process, one at a time; the others, which must call it too, get none.

    Tensors that are not sharded are as they were, in every process.
    """
    made = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if full is tensor or is_main_process():
            made[name] = full if full is tensor else full.cpu()
    return made


def reshard(model: Any) -> None:
    """Takes apart again what a forward pass without a backward pass left whole: embeddings, head, last norm, and the
    layers where they are kept between the two."""
    for module in model.modules() if is_sharded(model) else ():
        if is_sharded(module):
            module.reshard()


@contextmanager
def outer_weights(model: Any) -> Iterator[None]:
    """Within: embeddings, head and last norm are whole, also for who calls a part of the model by itself, as
    `generate` calls an encoder; its layers are gathered as they are met."""
    if not is_sharded(model):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        reshard(model)
