"""The versions and the machine that a run was made with."""

from __future__ import annotations

import platform
import resource
import sys
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from keeltune.utils.version import __version__


def environment() -> dict[str, Any]:
    """Versions and machine, as `result.json` and `keeltune doctor` report them."""
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **_versions(),
        "keeltune": __version__,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@cache
def _versions() -> dict[str, str]:
    """Of packages, from their metadata: to read it takes as long as a step of a small model."""
    return {package: version(package) for package in ("transformers", "accelerate", "peft")}


def peak_memory() -> int:
    """The most bytes that this process has held so far: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)


def memory_in_use() -> int | None:
    """The bytes that this process holds now: of the GPU where there is one, else of the machine; None where the system
    does not say so."""
    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # macOS
        return None
    return pages * resource.getpagesize()
