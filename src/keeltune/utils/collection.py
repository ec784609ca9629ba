"""Python's search for reference cycles, paused where a great many objects are made that hold none."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collection() -> Iterator[None]:
    """Within: no search for cycles, which would walk all rows made so far again and again, a third of reading's time.

    What is not used any more is freed as ever; only cycles wait until the end.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
