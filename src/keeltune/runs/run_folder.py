"""A run's folder: what a finished run is, and what one says that ended early."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeltune.recipe.fields import Recipe
from keeltune.recipe.paths import shared
from keeltune.runs.result_shape import empty
from keeltune.runs.stored_result import read_result
from keeltune.utils import current_watch, stop_signals
from keeltune.utils.distributed import is_main_process
from keeltune.utils.errors import Diverged, Problem, Stopped, UserError
from keeltune.utils.files import write_json, write_text
from keeltune.utils.stop_signals import StopAsked
from keeltune.utils.version import __version__


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and the contents of its `result.json`."""

    folder: Path
    result: dict[str, Any]

    def __repr__(self) -> str:
        """A line: `result` has thousands."""
        scores = self.result.get("metrics") or {}
        split = next((name for name in ("test", "validation") if scores.get(name)), None)
        said = [str(self.result.get("task")), str(self.result.get("method"))]
        if split is not None:
            metric, value = next(iter(scores[split].items()))
            said.append(f"{split} {metric} {'–' if value is None else f'{value:.4f}'}")
        return f"Run('{self.folder}': {', '.join(said)})"

    @property
    def model(self) -> Path:
        """A plain `save_pretrained` folder, which transformers loads with no keeltune installed; the best seed's."""
        return self.parts[self.best] / "model"

    @property
    def parts(self) -> list[Path]:
        """The folders of a run of several seeds; of one seed the run's own."""
        seeds = self.result.get("seeds")
        return [self.folder / name for name in seeds["folders"]] if seeds else [self.folder]

    @property
    def best(self) -> int:
        """Which of `parts` is the best by validation."""
        seeds = self.result.get("seeds")
        return int(seeds["folders"].index(seeds["best"])) if seeds else 0


@dataclass
class Progress:
    """How far a run has come: whether it has begun to train, and what is known by now of its `result.json`."""

    began: bool = False
    known: dict[str, Any] = field(default_factory=dict)


@contextmanager
def status_of(folder: Path, recipe: Recipe) -> Iterator[Progress]:
    """A run that ends early says so in its `result.json`, with what is known so far; one that has its result keeps it.

    One that is refused before it began leaves nothing, or what an earlier start has left.
    """
    progress = Progress()

    def note(error: BaseException) -> None:
        stopped = isinstance(error, (Stopped, StopAsked, KeyboardInterrupt)) or stop_signals.asked()
        status = "stopped" if stopped else "diverged" if isinstance(error, Diverged) else "failed"
        if is_main_process() and (stopped or progress.began) and not _has_result(folder):
            unfinished = {"keeltune": __version__, "task": recipe.task, "method": recipe.method, "status": status}
            with suppress(OSError):  # on a full disk the message counts, not the file
                write_json(folder / "result.json", {**_earlier(folder), **progress.known, **unfinished})

    try:
        with current_watch.on_hard_end(note):
            yield progress
    except BaseException as error:
        note(error)
        raise


def _earlier(folder: Path) -> dict[str, Any]:
    """What an earlier start knew."""
    try:
        return read_result(folder)
    except UserError:
        return empty()


def _has_result(folder: Path) -> bool:
    try:
        return finished(folder) is not None
    except UserError:
        return False


def finished(folder: Path) -> Run | None:
    """The run that lies complete in a folder; None where there is none. UserError: a result of another shape."""
    if not (folder / "result.json").exists():
        return None
    result = read_result(folder)
    return Run(folder, result) if result["status"] == "completed" else None


def required(run: str | Path | Run) -> tuple[Path, Run]:
    """A finished run's folder, and the run of one seed whose model is its own. UserError where there is none."""
    folder = run.folder if isinstance(run, Run) else Path(run)
    whole = finished(folder) if folder.is_dir() else None
    if whole is None:
        status = read_result(folder).get("status") if (folder / "result.json").is_file() else None
        found = f"a run that is {status}" if status else "no run" if folder.is_dir() else "no such folder"
        expected, fix = "the folder of a finished run", "finish it: keeltune train RECIPE --resume"
        raise UserError(Problem(str(folder), "", found, expected, fix if status else "name a run folder"))
    part = finished(whole.parts[whole.best]) if whole.parts != [whole.folder] else whole
    if part is None:
        fix = "go on with it: keeltune train RECIPE --resume"
        raise UserError(Problem(str(whole.parts[whole.best]), "", "no finished run", "the best seed's run", fix))
    return folder, part


def write_skipped(folder: Path, skipped: Sequence[Problem]) -> None:
    if skipped:
        lines = [json.dumps(_as_seen_from(folder, vars(problem)), ensure_ascii=False) for problem in skipped]
        write_text(folder / "skipped.jsonl", "".join(f"{line}\n" for line in lines))


def _as_seen_from(folder: Path, problem: Mapping[str, Any]) -> dict[str, Any]:
    """A row's problem, its file named as seen from a folder."""
    if not (file := problem.get("file")):
        return dict(problem)
    name = shared(Path(file), folder)
    return {**problem, "file": name, "where": problem["where"].replace(file, name)}
