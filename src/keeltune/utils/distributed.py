"""Processes that train together: how many, which one prints and writes, sums over all."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed
from torch import Tensor


def world_size() -> int:
    """Processes that train together, as the launcher (torchrun) says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the process that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def barrier() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def leave_group() -> None:
    """Ends the process group while the interpreter still stands, in every process that trained.

    gloo's threads let go of Python objects. One that does so while the interpreter ends takes the process with it
    ("terminate called without an active exception", exit status -6), after a run that was fine. They are joined only
    when nothing holds the group any more, which is why `release` comes first.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def summed_over_ranks(values: Tensor, device: Any) -> Tensor:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    total = values.to(device)
    torch.distributed.all_reduce(total)
    return total.cpu()
