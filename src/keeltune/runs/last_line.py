"""How a training that ends early ends: one line that says what happened, what is safe on disk, and what goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keeltune.recipe.fields import Recipe
from keeltune.runs import claim, run_folder
from keeltune.runs.stored_result import SEED
from keeltune.utils import stop_signals
from keeltune.utils.distributed import is_main_process, world_size
from keeltune.utils.errors import (
    CallbackFailed,
    Diverged,
    KeeltuneError,
    OutOfResources,
    StateRefused,
    Stopped,
    UserError,
)
from keeltune.utils.files import without_dots
from keeltune.utils.stop_signals import StopAsked
from keeltune.utils.terminal import Terminal

HAPPENED = {
    Stopped: "stopped",
    Diverged: "the training diverged",
    OutOfResources: "the disk or the memory is full",
    StateRefused: "refused, nothing was changed",
    CallbackFailed: "a callback failed",
    KeyboardInterrupt: "ended at once, as it was asked twice",
}


@dataclass
class Ended:
    """`option`: with what the same command goes on, where there is something to go on with."""

    option: str


@contextmanager
def last_line_of(recipe: Recipe, option: str) -> Iterator[Ended]:
    """Within: whatever ends the training gets its last line as a note; a signal's stop becomes `Stopped`.

    `option`: as of `Ended`, to be changed as soon as another one goes on.
    """
    ended = Ended(option)
    try:
        with stops_as_errors():
            yield ended
    except KeyboardInterrupt as interrupt:  # which a command's reader may take for its own
        if is_main_process():
            Terminal(stderr=True).print(last_line(interrupt, recipe, ended))
        raise
    except Exception as error:
        error.add_note(last_line(error, recipe, ended))
        raise


@contextmanager
def stops_as_errors() -> Iterator[None]:
    """Within: what a signal's stop raises is `Stopped`; also what it makes others raise, who obeyed first: workers,
    processes of the group."""
    try:
        yield
    except StopAsked as signal:
        raise Stopped(f"stopped by {signal}") from None
    except Exception as error:
        if not stop_signals.asked() or isinstance(error, KeeltuneError):
            raise
        raise Stopped(f"stopped, as a signal asked for it ({type(error).__name__})") from error


def last_line(error: BaseException, recipe: Recipe, ended: Ended) -> str:
    """`what happened; what is safe on disk; the command that goes on`."""
    folder = recipe.path(recipe.output)
    kept = _kept(folder)
    option = ended.option if kept or claim.used(folder) else ""
    again = recipe.command("train", *option.split())
    if again is None:
        again = f"the same call{f' with {option[2:]}=True' if option else ''}"
    elif world_size() > 1:
        again = f"torchrun --nproc_per_node {world_size()} -m {again}"
    then = "mend it and start" if isinstance(error, UserError) else "go on with"
    return f"{_happened(error)}; {kept or 'nothing of a run is on disk'}; {then}: {again}"


def _happened(error: BaseException) -> str:
    for kind, text in HAPPENED.items():
        if isinstance(error, kind):
            return text
    if isinstance(error, UserError):
        errors = sum(problem.severity == "error" for problem in error.problems)
        return f"{errors} problem{'s' if errors != 1 else ''}"
    return "ended early" if isinstance(error, KeeltuneError) else f"a bug of keeltune ({type(error).__name__})"


def _kept(folder: Path) -> str | None:
    """What of a run is safe in a folder, in words; None where nothing is."""
    if not folder.is_dir():
        return None
    if _completed(folder):
        return f"the finished run in {without_dots(folder)} is safe"
    seeds = sorted(path for path in folder.glob("seed-*") if SEED.fullmatch(path.name))
    checkpoints = {seed: newest for seed in (folder, *seeds) if (newest := _newest(seed)) is not None}
    parts = [f"{path.relative_to(folder)}" for path in checkpoints.values()]
    done = [seed.name for seed in seeds if _completed(seed)]
    parts = [*done, *(part for part in parts if part.split("/")[0] not in done)]
    return f"safe in {without_dots(folder)}: {', '.join(parts)}" if parts else None


def _completed(folder: Path) -> bool:
    try:
        return run_folder.finished(folder) is not None
    except UserError:
        return False


def _newest(folder: Path) -> Path | None:
    """The newest checkpoint of a run; one is under that name only when it is whole."""
    found = [path for path in folder.glob("checkpoints/checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)
