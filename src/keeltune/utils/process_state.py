"""Whether another process is still there, runs, or has been stopped; and whether it does anything.

What Linux says in /proc; elsewhere, and of processes of another machine, nothing is known.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

State = Literal["alive", "stopped", "gone", "unknown"]

BUSY = "RD"
"""The states of /proc in which a process computes, or waits for a disk."""


@dataclass(frozen=True)
class ProcessName:
    """One process, everywhere and for ever: a number is given to another process later. `place`: the machine since it
    was started, and the namespace of process numbers (a container's own)."""

    place: str
    pid: int
    started: int

    def state(self) -> State:
        """What the process is doing; `unknown` where it runs at another place, or nothing says it."""
        if not self.started or self.place != _place():
            return "unknown"
        fields = _fields(self.pid)
        if fields is None or int(fields[19]) != self.started or fields[0] in "ZX":
            return "gone"
        return "stopped" if fields[0] == "T" else "alive"

    def kill(self) -> None:
        """Ends it at once if it is of this place; one that has been stopped would not notice any other signal."""
        if self.state() in ("alive", "stopped"):
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


def this_process() -> ProcessName:
    fields = _fields(os.getpid())
    return ProcessName(_place(), os.getpid(), int(fields[19]) if fields else 0)


def host() -> str:
    """The name of this machine."""
    return socket.gethostname()


@cache
def _place() -> str:
    parts = [host()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def activity(pid: int) -> tuple[int, ...] | None:
    """What changes while a process does anything: its processor time (ticks) and the bytes that it read and wrote.

    None where nothing is known of it.
    """
    fields = _fields(pid)
    if fields is None:
        return None
    counts = [int(fields[11]) + int(fields[12])]
    with suppress(OSError, ValueError, IndexError):
        lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
        counts += [int(line.split()[1]) for line in lines]
    return tuple(counts)


def busy(pid: int) -> bool:
    """Whether a process computes, or waits for a disk, at this moment."""
    fields = _fields(pid)
    return fields is not None and fields[0] in BUSY


def _fields(pid: int) -> list[str] | None:
    """What /proc/PID/stat says after the name, which may hold anything: state (0), times (11, 12), start (19)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
