"""What a user sees while something runs: a bar in a terminal, plain lines elsewhere. All of it goes to stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from keeltune.utils.errors import Problem
from keeltune.utils.language import said
from keeltune.utils.sanitization import shown_text
from keeltune.utils.stop_signals import raise_if_asked
from keeltune.utils.terminal import Terminal


class Advance(Protocol):
    """Reports `done` more units, with a few words on how it stands."""

    def __call__(self, done: int, note: str = "") -> None: ...


class Display:
    """Messages and progress. `quiet` shows nothing: the other ranks of a run, or a caller who wants none."""

    def __init__(self, *, quiet: bool = False, plain_every: float = 15.0):
        self.console = Terminal(stderr=True, quiet=quiet)
        self.plain_every = plain_every

    def say(self, text: str) -> None:
        """One line of plain text."""
        self.console.print(text)

    def warn(self, problem: Problem) -> None:
        """A problem that stops nothing, as a block of lines."""
        self.console.block(f"warning: {problem}")

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:
        """A bar of `total` units; without a terminal a line at most every `plain_every` seconds, and one at the end.

        Who goes on with a bar after a signal has asked for a stop is stopped there.
        """
        if self.console.is_terminal:
            with self._rich() as progress:
                task = progress.add_task(said(shown_text(label)), total=total, note="")
                notes = [""]

                def advance(done: int, note: str = "") -> None:
                    raise_if_asked()
                    notes[0] = note or notes[0]
                    progress.update(task, advance=done, note=said(shown_text(notes[0])))

                yield advance
        else:
            yield self._plain(label, total)

    def _rich(self) -> Progress:
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
        )

    def _plain(self, label: str, total: int) -> Callable[..., None]:
        state = {"done": 0, "said": time.monotonic()}

        def advance(done: int, note: str = "") -> None:
            raise_if_asked()
            state["done"] += done
            now = time.monotonic()
            if now - state["said"] >= self.plain_every or state["done"] >= total:
                state["said"] = now
                self.say(f"{said(label)} {int(state['done'])}/{total} {said(note)}".rstrip())

        return advance
