"""Faults at every file call: a kill, a torn write, a power cut, a full or broken disk.

What a kill at a call leaves is copied by the run itself before each of its calls, in the middle of each of its writes,
and after each flush: one run gives all states, and each of them goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.bench import Bench, Trial, quiet
from tests.faults import power_cut

RUN, CACHED = "few steps", "few steps, cached"
ERRORS = {"enospc": (5,), "efbig": (5,), "eio": (0, 5)}
"""The errors of a disk, and the statuses that a run may end with: of an error that comes once it may get over."""

EVERY = {"enospc": 1, "efbig": 3, "eio": 1}
"""Each is tried at every so manieth file call: a limit of a file's size is met by the code that meets a full disk."""


def trials(bench: Bench) -> Iterator[Trial]:
    for action, family in (("copy", "a kill at every file call"), ("halves", "a torn write")):
        for state in recorded(bench, RUN, action, "out"):
            yield Trial(family, state.name, partial(from_state, RUN, action, state.name))
    for state in recorded(bench, CACHED, "copy", "kept"):
        yield Trial("a kill at every file call of the cache", state.name, partial(_cache, state.name))
    for state in cuts_of(bench):
        yield Trial("a power cut", state.name, partial(cut_after, state.name))
    for error in ERRORS:
        for number in range(1, calls_of(bench) + 1, EVERY[error]):
            yield Trial(f"{error.upper()} at file calls", str(number), partial(fails, error, number))


WHOLE: dict[str, Any] = {}

LAST_SAVE = {"at": ["save", 3], "until": ["conclude", 1]}
"""The part of a run that its last save is, with the removal of the oldest one and what is written until its end."""


def recorded(bench: Bench, name: str, action: str, below: str, part: Mapping[str, Any] = WHOLE) -> list[Path]:
    """The states that the shim recorded of the folder `below` in a part of a run, in order."""
    record = bench.folder / f"record {name} {action} {part.get('at')}"
    if not record.exists():
        record.mkdir()
        with bench.fresh(name) as folder:
            plan = {**part, "do": {"shim": [str(folder / below), action, -1, False, str(record)]}}
            ended = bench.train(folder, name, plans=[plan])
            if wrong := quiet(ended, 0):
                raise RuntimeError(wrong)
    return sorted(path for path in record.iterdir() if path.is_dir())


def from_state(name: str, action: str, state: str, bench: Bench) -> str:
    return bench.goes_on_from(next(p for p in recorded(bench, name, action, "out") if p.name == state), name)


def _cache(state: str, bench: Bench) -> str:
    """A cache that was being filled is filled up by the next start, and the run ends the same."""
    with bench.fresh(CACHED) as folder:
        shutil.copytree(next(p for p in recorded(bench, CACHED, "copy", "kept") if p.name == state), folder / "kept")
        return bench.goes_on(folder, CACHED)


def cuts_of(bench: Bench) -> list[Path]:
    """What the disk holds after each power cut of a run."""
    states = bench.folder / "cuts"
    if not states.exists():
        states.mkdir()
        recorded(bench, RUN, "cut", "out")
        for number, kept in power_cut.cuts(bench.folder / f"record {RUN} cut None", states / "now"):
            (states / "now").rename(states / f"{number:06d} {kept}")
    return sorted(states.iterdir())


def cut_after(state: str, bench: Bench) -> str:
    return bench.goes_on_from(bench.folder / "cuts" / state, RUN)


def calls_of(bench: Bench) -> int:
    """How many file calls the whole run makes."""
    return len(recorded(bench, RUN, "copy", "out"))


def finished_at(bench: Bench) -> int:
    """The first file call before which the run is whole and on the disk."""
    states = recorded(bench, RUN, "copy", "out")
    return next(number for number, state in enumerate(states, 1) if is_finished(state))


def is_finished(folder: Path) -> bool:
    """Whether a run's folder holds a finished one."""
    file = folder / "result.json"
    return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["status"] == "completed"


def fails(error: str, number: int, bench: Bench) -> str:
    with bench.fresh(RUN) as folder:
        sticky = error != "eio"
        plan = {"do": {"shim": [str(folder / "out"), error, number, sticky, None]}}
        ended = bench.train(folder, RUN, plans=[plan])
        whole = number >= finished_at(bench)  # what is left is to take checkpoints and the lock away
        wrong = [quiet(ended, *ERRORS[error], *([0] if whole else [])), bench.unsound(folder)]
        if ended.status == 5 and not (str(folder) in ended.text and "free" in ended.text):
            wrong.append(f"no path or free bytes in: {ended.last_line[:200]}")
        return "; ".join(filter(None, wrong)) or bench.goes_on(folder, RUN)
