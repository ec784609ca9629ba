"""Processes that train together: how many, which one prints and writes, sums over all."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from functools import _lru_cache_wrapper
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

from keeltune.utils.current_watch import operation
from keeltune.utils.errors import Diverged, OutOfResources, Stopped


def world_size() -> int:
    """Processes that train together, as the launcher (torchrun) says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the process that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def process_group() -> Any:
    """`torch.distributed` where this process has joined a group, else None. Who has not imported it has joined none."""
    distributed = sys.modules.get("torch.distributed")
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None


def barrier() -> None:
    """Waits until all processes are here; one of them may have something long to do before."""
    if group := process_group():
        with operation(patient=True):
            group.barrier()


def leave_group() -> None:
    """Ends the process group while the interpreter still stands, in every process that trained.

    gloo's threads let go of Python objects. One that does so while the interpreter ends takes the process with it
    ("terminate called without an active exception", exit status -6), after a run that was fine. They are joined only
    when nothing holds the group any more, which is why `release` comes first, and why torch is to forget the layouts of
    weights that were sharded.
    """
    if group := process_group():
        if "torch.distributed.tensor" in sys.modules:
            _forget_layouts()
        group.destroy_process_group()


def _forget_layouts() -> None:
    """Empties torch's own memories of sharded tensors' layouts, each of which holds the group."""
    from torch.distributed.tensor import _redistribute, debug

    debug._clear_sharding_prop_cache()
    if hasattr(_redistribute, "clear_redistribute_planner_cache"):  # not in every version
        _redistribute.clear_redistribute_planner_cache()
    for one in gc.get_objects():  # by its type alone: some that are asked for their class warn
        if type(one) is _lru_cache_wrapper and str(one.__module__).startswith("torch.distributed.tensor"):
            one.cache_clear()
    gc.collect()  # what was sharded, and what is kept of it, hold each other


def summed_over_ranks(values: Tensor, device: Any) -> Tensor:
    group = process_group()
    if not group:
        return values
    total = values.to(device)
    with operation():
        group.all_reduce(total)
    return total.cpu()


def gathered(value: Any, *, patient: bool = True) -> list[Any]:
    """A value of JSON of each process, in all of them, by their ranks. They wait for each other; nothing is pickled.

    `patient`: one of them has something long to do before.
    """
    group = process_group()
    if not group:
        return [value]
    import torch  # who has joined a group has it already

    device = "cuda" if group.get_backend() == "nccl" else "cpu"
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(group.get_world_size())]
    with operation(patient=patient):
        group.all_gather(sizes, torch.tensor([len(text)], device=device))
    longest = int(torch.cat(sizes).max())
    padded = torch.nn.functional.pad(text, (0, longest - len(text)))
    texts = [torch.empty_like(padded) for _ in sizes]
    group.all_gather(texts, padded)
    return [json.loads(bytes(t[: int(size)].tolist())) for t, size in zip(texts, sizes, strict=True)]


def together(action: Callable[[], None]) -> None:
    """What each process does, and all of them wait for: where it fails in one, it fails in all.

    Raises what it raised here; elsewhere a failure of the same kind that says so.
    """
    mine: Exception | None = None
    try:
        action()
    except Exception as error:
        mine = error
    failed = [one for one in gathered(None if mine is None else [_kind(mine), str(mine)]) if one is not None]
    if mine is not None:
        raise mine
    for kind, text in failed:
        raise _KINDS[kind](f"in another process: {text}")


_KINDS: dict[str, type[Exception]] = {kind.__name__: kind for kind in (Diverged, OutOfResources, Stopped, RuntimeError)}


def _kind(error: Exception) -> str:
    return next(name for name, kind in _KINDS.items() if isinstance(error, kind) or kind is RuntimeError)
