"""This machine: its device, how fast it multiplies in which precision, and the contexts of a forward pass."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch

LONG = 0.3
"""Seconds of timing after which another product tells nothing new: bf16 without hardware takes half a second each."""

SIZE = 768
"""Of the square matrices whose product is timed."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_precision(requested: str, device: str, world_size: int = 1) -> str:
    """`fp32` or `bf16`: for `auto`, bf16 where a matrix product of this machine is faster in it, else fp32.

    Several processes ask the hardware instead of the clock: all of them must come to the same answer.
    """
    if requested != "auto":
        return requested
    if world_size > 1:
        able = torch.cuda.is_bf16_supported(False) if device != "cpu" else _cpu_has_bf16()
        return "bf16" if able else "fp32"
    seconds = _matmul_seconds(torch.float32, device)
    small = 192  # a 64th of the operations; without hardware a whole product takes half a second
    if device == "cpu" and _matmul_seconds(torch.bfloat16, device, small, 1) > seconds / 4:
        return "fp32"
    return "bf16" if _matmul_seconds(torch.bfloat16, device) < 0.8 * seconds else "fp32"


@cache  # once a process: all its runs come to the same answer
def _matmul_seconds(dtype: torch.dtype, device: str, size: int = SIZE, repeats: int = 5) -> float:
    """The best of a few timed products [size, size] @ [size, size], fewer where they take long; one before them is not
    counted."""
    a = torch.ones(size, size, dtype=dtype, device=device)
    best, begun = float("inf"), time.perf_counter()
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        if repeat:
            best = min(best, time.perf_counter() - start)
            if time.perf_counter() - begun > LONG:
                break
    return best


def matmul_flops(precision: str, device: str) -> float:
    """Floating-point operations a second of a matrix product of this machine, for estimates."""
    # called as `choose_precision` calls it, so that one product is timed once
    return 2 * SIZE**3 / _matmul_seconds(DTYPES[precision], device)


def autocast(precision: str, device: str) -> Callable[[], AbstractContextManager[Any]]:
    """Makes the context for a forward pass: float32 weights, and bf16 products where the precision says so."""
    if precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(device.split(":")[0], dtype=DTYPES[precision])


@contextmanager
def in_eval_mode(model: Any) -> Iterator[None]:
    """Eval mode inside; afterwards each module is back in the mode that it had, also where they differed."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def this_device() -> str:
    """The device of this process: the GPU of its rank, or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def device_note() -> str:
    """Why this machine's accelerator is not used; empty where it is, or where there is none."""
    if torch.cuda.is_available() or not torch.backends.mps.is_available():
        return ""
    return "the GPU of this Mac (mps) is not used: it has no float64, in which losses are summed"


def _cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 in hardware (AMX or AVX-512 BF16)."""
    flags = Path("/proc/cpuinfo")
    text = flags.read_text(encoding="utf-8", errors="replace") if flags.is_file() else ""
    return "amx_bf16" in text or "avx512_bf16" in text
