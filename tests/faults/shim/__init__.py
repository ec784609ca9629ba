"""What a disk and a clock may do to a process, as a library that is loaded before libc; built here when a test asks.

    files = shim.build(folder)                                   the library's path; needs a C compiler
    subprocess.run(..., env={**os.environ, "LD_PRELOAD": files})
    shim.arm(folder, "kill", at=7)                               within that process, and those that it forks

`faults.c` says what the actions are, `clock.c` how the time is shifted.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

SOURCES = [Path(__file__).with_name(name) for name in ("faults.c", "clock.c")]


class NoCompiler(Exception):
    """No C compiler is at hand."""


def build(folder: Path) -> Path:
    """Compiles the library into `folder`. Raises NoCompiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise NoCompiler("no C compiler (cc, or what CC names) is at hand")
    built = folder / "faults.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", built, *SOURCES, "-ldl", "-lpthread"], check=True)
    return built


def arm(folder: Path, action: str, at: int = -1, *, sticky: bool = False, record: Path | None = None) -> None:
    """Counts the file calls below `folder`, which exists, from now on; `action` happens at call `at`."""
    library = ctypes.CDLL(None)
    noted = b"" if record is None else os.fsencode(record)
    if library.faults_arm(os.fsencode(folder), ctypes.c_long(at), action.encode(), int(sticky), noted):
        raise ValueError(f"found {action!r} in {folder}, expected an action of faults.c and a folder that exists")


def disarm() -> int:
    """Ends the counting; how many calls there were."""
    library = ctypes.CDLL(None)
    library.faults_disarm.restype = ctypes.c_long
    return int(library.faults_disarm())


def shift_clock(seconds: int) -> None:
    """Puts this process's clock forward, or back."""
    ctypes.CDLL(None).clock_shift(ctypes.c_long(seconds))
