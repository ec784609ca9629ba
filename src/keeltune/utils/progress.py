"""What a user sees while something runs: a bar in a terminal, plain lines elsewhere. All of it goes to stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

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
        return Progress(_Line(self.console), console=self.console)

    def _plain(self, label: str, total: int) -> Callable[..., None]:
        begun = told = time.monotonic()
        done = first = 0

        def advance(more: int, note: str = "") -> None:
            nonlocal begun, told, done, first
            raise_if_asked()
            done += more
            now = time.monotonic()
            if first == 0:  # a run that goes on moves to its place at once: that tells nothing of its speed
                begun, first = now, done
            if now - told >= self.plain_every or done >= total:
                told = now
                left = (now - begun) * (total - done) / (done - first) if first < done < total else None
                self.say(" ".join(filter(None, (said(label), *_standing(done, total), said(note), _left(left)))))

        return advance


def _standing(done: float, total: float) -> tuple[str, str]:
    """How many of how many, and their share."""
    return f"{done:.0f}/{total:.0f}", f"{done / total:.0%}" if total else ""


def _left(seconds: float | None) -> str:
    """Seconds as h:mm:ss."""
    return "" if seconds is None else said(f"{timedelta(seconds=round(seconds))} left")


class _Line(ProgressColumn):
    """A bar in one line that is never cut: what it is, a bar, how many of how many, their share, how it stands, the
    time that is left. Where the line is narrow the bar goes first, then all of the note but its beginning."""

    SHORTEST, LONGEST = 8, 40

    def __init__(self, console: Console):
        super().__init__()
        self.console = console

    def render(self, task: Task) -> RenderableType:
        total = task.total or 0
        left = _left(None if task.finished else task.time_remaining)
        note = [part for part in str(task.fields["note"]).split(" · ") if part]
        while note and cell_len(self._words(task, total, note, left)) > self.console.width:
            note.pop()
        words = self._words(task, total, note, left)
        room = self.console.width - cell_len(words) - 1
        if room < self.SHORTEST or not total:
            return Text(words, overflow="ellipsis", no_wrap=True)
        bar = ProgressBar(total=total, completed=task.completed, width=min(room, self.LONGEST))
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(Text(task.description), bar, Text(words.removeprefix(task.description).lstrip()))
        return line

    def _words(self, task: Task, total: float, note: Sequence[str], left: str) -> str:
        parts = (task.description, *_standing(task.completed, total), " · ".join(note), left)
        return " ".join(filter(None, parts))
