"""A run as it stands now, read from its folder by another process: not begun yet, at work, ended, finished.

Who is at work is said by the folder's lock, how far it is by `.progress.json`, its losses and scores by `log.jsonl`,
and how it ended by `result.json`. Each may be missing, half written or replaced while it is read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from keeltune.recipe import load
from keeltune.recipe.fields import Recipe
from keeltune.runs.output_folder import PROGRESS
from keeltune.runs.stored_result import SEED, read_result
from keeltune.utils.errors import KeeltuneError
from keeltune.utils.files import open_regular, read_at_most
from keeltune.utils.folder_lock import FolderLock, Owner
from keeltune.utils.json import parse_json, strict_value

ENDED = ("completed", "stopped", "diverged", "failed")
"""What `result.json` says of a run that nobody is at work on."""

MOST_PROGRESS, MOST_LOG = 2**20, 2**26
"""Bytes of the files that are read; what lies behind them is not."""


TAIL = 64
"""Bytes before the place that was read up to, by which a file is known that another one has taken the place of."""


@dataclass
class Log:
    """`log.jsonl` as far as it is written, read on from where it ended the last time. A line without an end is left for
    the next time, one that is no entry is left out."""

    file: Path
    entries: list[dict[str, Any]] = field(default_factory=list)
    read: int = 0
    tail: bytes = b""

    def refresh(self) -> list[dict[str, Any]]:
        """All entries that are there by now."""
        try:
            with open_regular(self.file) as stream:
                stream.seek(self.read - len(self.tail))
                if stream.read(len(self.tail)) != self.tail:  # a run that begins anew or goes on writes another one
                    self._forget()
                    stream.seek(0)
                new = stream.read(MOST_LOG - self.read)
        except OSError:
            self._forget()
            return self.entries
        whole = new[: new.rfind(b"\n") + 1]
        self.read += len(whole)
        self.tail = (self.tail + whole)[-TAIL:]
        self.entries += filter(None, map(_entry, whole.split(b"\n")))
        return self.entries

    def _forget(self) -> None:
        self.entries, self.read, self.tail = [], 0, b""


def _entry(line: bytes) -> dict[str, Any] | None:
    """The numbers of a line of the log, those that are none left out; None for what is no entry."""
    if not line.strip():
        return None
    with suppress(ValueError, RecursionError):
        value = strict_value(line.decode(), infinity=True)
        if isinstance(value, dict) and _is_number(value.get("step")):
            return {name: number for name, number in value.items() if _is_number(number)}
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class LiveRun:
    """A run's folder, looked at again and again; it need not be there yet."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._logs: dict[Path, Log] = {}
        self._known: dict[Path, tuple[Any, Any]] = {}

    def state(self) -> dict[str, Any]:
        """What can be said of it now.

        {"name", "status": "waiting" (nothing of a run is there) | "preparing" | "training" | "finishing" (scoring and
        saving) | "completed" | "stopped" | "diverged" | "failed" | "killed" (it ended without a word), "owner": who is
        at work, in words, or null, "task", "method", "language", "seeds": [{"name", "status"}] of a run of several,
        "seed": which of them the rest is of, "step", "steps", "seconds_left", "steps_per_second", "memory":
        {"now", "peak"}, "held", "samples": as `progress_file.py` has them, "log": the entries of `log.jsonl`,
        "metrics": those of the finished run, {split: {name: value}}, "report": whether its page is there}; null where
        it is not known.
        """
        owner, recipe = self._owner(), self._recipe()
        seeds = sorted(path for path in self._inside("seed-*") if SEED.fullmatch(path.name) and "fail" not in path.name)
        progress = {part: self._progress(part) for part in seeds or [self.folder]}
        part = max(progress, key=lambda one: (progress[one] or {}).get("written", 0.0))
        told = progress[part] if progress[part] else None
        result = self._result(self.folder)
        status = self._status(owner, told, result)
        return {
            "name": self.folder.resolve().name,
            "status": status,
            "owner": None if owner is None else str(owner),
            "task": recipe.task if recipe else None,
            "method": recipe.method if recipe else None,
            "language": recipe.report.language if recipe else None,
            "seeds": [{"name": one.name, "status": self._of_seed(one, one == part, status)} for one in seeds],
            "seed": part.name if seeds else None,
            **_pace(told, status),
            **{name: (told or {}).get(name) for name in ("memory", "held", "samples")},
            "log": self._logs.setdefault(part, Log(part / "log.jsonl")).refresh(),
            "metrics": _scores(result) if status == "completed" else {},
            "report": status == "completed" and (self.folder / "report.html").is_file(),
        }

    def _inside(self, pattern: str) -> list[Path]:
        try:
            return [path for path in self.folder.glob(pattern) if path.is_dir() and not path.is_symlink()]
        except OSError:
            return []

    def _owner(self) -> Owner | None:
        try:
            return FolderLock(self.folder).owner()
        except OSError:  # no folder, or a file in its place
            return None

    def _status(self, owner: Owner | None, told: Mapping[str, Any] | None, result: Mapping[str, Any]) -> str:
        if owner is not None:
            if told is None or told["written"] < _moment(owner.started):
                return "preparing"
            return "training" if told["training"] and told["step"] < told["steps"] else "finishing"
        if result.get("status") in ENDED:
            return str(result["status"])
        begun = any((self.folder / name).exists() for name in ("recipe.yaml", "log.jsonl", PROGRESS, "checkpoints"))
        return "killed" if begun else "waiting"

    def _of_seed(self, folder: Path, current: bool, status: str) -> str:
        """One of several runs: as it says itself, else as the whole one does where it is the one at work."""
        said = self._result(folder).get("status")
        return str(said) if said == "completed" else status if current else str(said or "waiting")

    def _recipe(self) -> Recipe | None:
        return self._unchanged(self.folder / "recipe.yaml", load)

    def _result(self, folder: Path) -> Mapping[str, Any]:
        return self._unchanged(folder / "result.json", lambda file: read_result(file.parent)) or {}

    def _progress(self, folder: Path) -> dict[str, Any] | None:
        return self._unchanged(folder / PROGRESS, _read_progress)

    def _unchanged(self, file: Path, read: Callable[[Path], Any]) -> Any:
        """What a file says, read once as long as nothing of it changes; None where it cannot be read."""
        try:
            there = file.stat()
            mark = (there.st_mtime_ns, there.st_size, there.st_ino)
            if self._known.get(file, (None, None))[0] != mark:
                self._known[file] = (mark, read(file))
            return self._known[file][1]
        except (OSError, KeeltuneError, ValueError, RecursionError):
            return None


def _read_progress(file: Path) -> dict[str, Any] | None:
    """`.progress.json` of the shape that is written; None else."""
    with open_regular(file) as stream:
        told = parse_json(read_at_most(stream, MOST_PROGRESS))
    numbers = ("step", "steps", "first", "elapsed", "written")
    if not isinstance(told, dict) or not all(_is_number(told.get(name)) for name in numbers):
        return None
    memory: Any = told.get("memory")
    held: Any = told.get("held")
    memory, held = memory if isinstance(memory, dict) else {}, held if isinstance(held, list) else []
    return {
        **{name: told[name] for name in numbers},
        "training": told.get("training") is True,
        "memory": {name: value for name in ("now", "peak") if _is_number(value := memory.get(name))},
        "held": [pair for pair in held if isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))],
        "samples": _read_samples(told.get("samples")),
    }


def _read_samples(value: Any) -> dict[str, Any] | None:
    """{"step", "rows"} of texts; None where there are none."""
    if not isinstance(value, dict) or not _is_number(value.get("step")) or not isinstance(value.get("rows"), list):
        return None
    rows = []
    for row in value["rows"]:
        if isinstance(row, dict) and isinstance(row.get("inputs"), dict) and _is_number(row.get("score")):
            texts = {name: str(row.get(name, "")) for name in ("row", "prediction", "gold")}
            inputs = {str(name): str(text) for name, text in row["inputs"].items()}
            rows.append({**texts, "inputs": inputs, "score": row["score"]})
    return {"step": value["step"], "rows": rows} if rows else None


def _pace(told: Mapping[str, Any] | None, status: str) -> dict[str, Any]:
    """How far it is, how fast, and how long it will go on: at the pace of this process's steps so far, evaluations and
    saving included."""
    pace: dict[str, Any] = dict.fromkeys(("step", "steps", "seconds_left", "steps_per_second"))
    if told is None:
        return pace
    pace |= {"step": told["step"], "steps": told["steps"]}
    done = told["step"] - told["first"]
    if status == "training" and done > 0 and told["elapsed"] > 0:
        since = max(0.0, time.time() - told["written"])
        left = (told["steps"] - told["step"]) * told["elapsed"] / done - since
        pace |= {"seconds_left": max(0.0, left), "steps_per_second": done / told["elapsed"]}
    return pace


def _scores(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    metrics = result.get("metrics") or {}
    splits = {split: metrics.get(split) or {} for split in ("validation", "test")}
    return {split: {n: v for n, v in values.items() if _is_number(v)} for split, values in splits.items() if values}


def _moment(started: str) -> float:
    """A lock's time as seconds of the clock; 0 where it says none."""
    with suppress(ValueError):
        return datetime.fromisoformat(started.replace("Z", "+00:00")).timestamp()
    return 0.0
