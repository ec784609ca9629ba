"""`log.jsonl` and what a user sees while it trains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isclose
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from keeltune.runs.output_folder import PROGRESS
from keeltune.runs.progress_file import ProgressFile
from keeltune.utils.files import write_text
from keeltune.utils.progress import Advance, Display


def _line(entry: dict[str, Any]) -> str:
    """A log entry as a line; its keys sorted, as a checkpoint keeps them, so that a resumed run's log is the same."""
    return json.dumps(entry, sort_keys=True) + "\n"


def _told(entry: Mapping[str, Any]) -> list[str]:
    """The terms of a loss that say something: not the cross-entropy where it is all there is of it, which is the same
    number but for how its mean over several steps is taken."""
    terms = [name for name in ("cross_entropy", "divergence", "matching") if name in entry]
    is_all = terms == ["cross_entropy"] and isclose(entry["loss"], entry["cross_entropy"], rel_tol=0.01)
    return ["loss", *([] if is_all else terms)]


class Watcher(TrainerCallback):
    """Writes `log.jsonl` and `.progress.json` beside it, and moves the bar.

    The log is the Trainer's history: a resumed run's has no double lines.
    """

    def __init__(self, file: Path, display: Display, main: bool):
        self.file, self.display, self.main = file, display, main
        self.progress = ProgressFile(file.with_name(PROGRESS) if main else None)
        self.advance: Advance = lambda done, note="": None
        self.step = 0
        self.note = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(state)
        self.progress.begin(state.global_step, state.max_steps)
        self._move(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(state)

    def _write(self, state: Any) -> None:
        """The whole history, on the disk when this returns: a line that is appended may be lost with the power."""
        if self.main:
            write_text(self.file, "".join(_line(entry) for entry in state.log_history))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        entry = state.log_history[-1]
        if self.main:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(_line(entry))
        if "loss" in entry:
            self.note = " · ".join(f"{name} {entry[name]:.4f}" for name in _told(entry))
        elif scores := [f"{k.removeprefix('eval_')} {v:.4f}" for k, v in entry.items() if k.startswith("eval_")]:
            self.display.say(f"  step {state.global_step}: validation {' · '.join(scores)}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._move(state)

    def _move(self, state: Any) -> None:
        self.progress.move(state.global_step)
        self.advance(state.global_step - self.step, self.note)
        self.step = state.global_step
