"""What the interpreter itself says that is done, under whichever test: pickles that are read, files that are opened."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = str(Path(__file__).parents[2] / "src" / "keeltune") + os.sep

PIPES = ("multiprocessing", "concurrent")
"""Packages whose processes hand objects to each other, as those of a data loader; nothing of it is read from a file."""

pickled: list[str] = []
"""The stack of each pickle that was read below a call of ours."""

_watched: list[list[str]] = []


def _heard(event: str, arguments: tuple) -> None:
    if event == "open" and _watched:
        name = arguments[0]
        for opened in _watched:
            if isinstance(name, str | bytes | os.PathLike):
                opened.append(os.fsdecode(name))
    elif event == "pickle.find_class":
        stack = traceback.extract_stack()
        ours = any(frame.filename.startswith(PACKAGE) for frame in stack)
        if ours and not any(f"{os.sep}{name}{os.sep}" in frame.filename for frame in stack for name in PIPES):
            pickled.append(f"{arguments}\n{''.join(traceback.format_list(stack[-12:]))}")


def listen() -> None:
    """From now on to the end of the process: an audit hook cannot be taken away."""
    sys.addaudithook(_heard)


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """A growing list: the names of the files that Python opens within."""
    names: list[str] = []
    _watched.append(names)
    try:
        yield names
    finally:
        _watched.remove(names)
