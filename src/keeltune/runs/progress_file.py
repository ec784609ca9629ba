"""`.progress.json` in a run's folder: how far its training is, for whoever watches it (`live_run.py`).

{"step", "steps", "first": the step that this process began with, "elapsed": seconds since, "training": whether steps
are still to be made, "written": when (seconds of the clock), "memory": {"now", "peak"}, "held": [[step, bytes], …] at
most `HELD` of them, "samples": {"step", "rows"} of the last evaluation, as `evaluation.samples` has them}

It is of the moment: written once a second at most, not synced to disk, no part of what a run answers for. A training
is never ended because it cannot be written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from keeltune.runs.environment import memory_in_use, peak_memory
from keeltune.utils.files import write_unsynced

EVERY = 1.0
"""Seconds between two writings."""

HELD = 240
"""Points of the memory's curve; where there are more, every second one goes."""


class ProgressFile:
    """What a training says of itself while it goes on. `file`: None writes nothing (the other ranks of a group)."""

    def __init__(self, file: Path | None, clock: Callable[[], float] = time.monotonic):
        self.file, self.clock = file, clock
        self.first = self.step = self.steps = 0
        self.began = self.written = clock()
        self.held: list[list[int]] = []
        self.stride = 1
        self.samples: dict[str, Any] | None = None

    def begin(self, step: int, steps: int) -> None:
        """The training begins, or goes on, at a step."""
        self.first, self.step, self.steps, self.began = step, step, steps, self.clock()
        self._write(training=True)

    def move(self, step: int) -> None:
        """A step is done."""
        self.step = step
        if self.file is not None and self.clock() - self.written >= EVERY:
            self._write(training=True)

    def show(self, rows: list[dict[str, Any]]) -> None:
        """A few rows with their answers, of the evaluation of now."""
        self.samples = {"step": self.step, "rows": rows}
        self._write(training=True)

    def end(self) -> None:
        """No further step is made: what follows is scoring and saving."""
        self._write(training=False)

    def _write(self, *, training: bool) -> None:
        if self.file is None:
            return
        self.written, now = self.clock(), memory_in_use()
        self._hold(now)
        told = {
            "step": self.step,
            "steps": self.steps,
            "first": self.first,
            "elapsed": self.written - self.began,
            "training": training,
            "written": time.time(),
            "memory": {"now": now, "peak": peak_memory()},
            "held": self.held,
            "samples": self.samples,
        }
        with suppress(OSError):
            write_unsynced(self.file, json.dumps(told).encode("utf-8", "backslashreplace"))

    def _hold(self, memory: int | None) -> None:
        """Another point of the memory's curve, where enough steps lie behind the last one."""
        if memory is None or (self.held and self.step - self.held[-1][0] < self.stride):
            return
        self.held.append([self.step, memory])
        if len(self.held) > HELD:
            self.held = self.held[::2]
            self.stride = self.held[1][0] - self.held[0][0]
