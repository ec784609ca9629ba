"""What reading one input may cost, and what a message may not hold."""

from __future__ import annotations

import resource
import signal
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SECONDS = 5.0
BYTES = 500_000_000

PATIENCE = 4
"""A busy machine may take so much longer than the processor does; what never ends is stopped then."""


class TooLong(BaseException):
    """No `except Exception` holds it back."""


def unprintable(message: str) -> bool:
    """Whether a terminal would obey a message, or could not show it: control characters, surrogates, marks of direction."""
    return any(unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n" for c in message)


def peak() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def bounded() -> Iterator[None]:
    """`TooLong` after twenty seconds; MemoryError above a gigabyte more than now."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong

    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (held + 2 * BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
