"""Whose an output folder is: one process's at a time, and of one run. Nothing heavy is imported here, so that a second
start, or a folder that cannot be written, is refused before anything is read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from keeltune.evaluation.test_set_looks import LOOKS
from keeltune.runs.output_folder import EXPORTS, FOLDERS, PROGRESS, refuse_unwritable
from keeltune.runs.stored_result import SEED
from keeltune.utils.distributed import is_main_process
from keeltune.utils.errors import Problem, UserError, name_list
from keeltune.utils.folder_lock import LOCK, FolderLock, Owner
from keeltune.utils.progress import Display
from keeltune.utils.system_faults import DISK_FAULTS, reason

OURS = (
    "recipe.yaml",
    "result.json",
    "report.html",
    "log.jsonl",
    "skipped.jsonl",
    "media.jsonl",
    "tensorboard",
    EXPORTS,
    PROGRESS,
    *(name for name in FOLDERS if "/" not in name),
)
"""What a run writes into its folder, and all that `--overwrite` removes."""

UNCOUNTED = (LOOKS, LOCK)
"""What lies in a folder that no run uses: the count outlives an `--overwrite`, the lock is of whoever is at work."""

LEFT = re.compile(
    r"\.(staging-\d+-[0-9a-f]{16}|trial-\d+-*"
    r"|(staging-|trash-|trash-\.staging-)(model|adapter|source_model|checkpoint-\d+|best-\d+\.safetensors))"
)
"""What a killed process leaves of a file or a model that it was writing, or taking away."""


@contextmanager
def claimed(folder: Path, *, resume: bool, overwrite: bool, display: Display) -> Iterator[None]:
    """Within: the folder is this run's, of all processes that train it; no other one's. An earlier run is removed from
    it with `overwrite`.

    Raises: UserError: another process is at work there, the folder is used, or it cannot be written to.
    """
    if not is_main_process():  # the others would find what the first one has already made
        yield
        return
    if resume and overwrite:
        fix = "leave one of them out"
        raise _refused(folder, "--resume and --overwrite", fix, "to go on with a run, or to start over")
    refuse_unwritable(folder)
    with owned(folder, display):
        take_over(folder, resume=resume, overwrite=overwrite)
        yield


@contextmanager
def owned(folder: Path, display: Display, field: str = "output") -> Iterator[None]:
    """Within: no other process of keeltune writes to the folder. UserError at once where one does, naming it.

    `field`: of the recipe, by which messages call the folder.
    """
    lock = FolderLock(folder)
    _refuse_owner(lock, lock.take, field)
    if lock.judged:
        display.say(f"warning: {folder} lies where files cannot be locked; {LOCK} in it says whose it is")
    if lock.left is not None:
        display.say(f"{folder} was left by {lock.left}, which was ended without a word")
    try:
        yield
    finally:
        lock.release()


def refuse_in_use(folder: Path, field: str = "output") -> None:
    """UserError where another process of keeltune is at work in the folder, naming it."""
    lock = FolderLock(folder)
    _refuse_owner(lock, lock.owner, field)


def _refuse_owner(lock: FolderLock, asked: Callable[[], Owner | None], field: str) -> None:
    try:
        owner = asked()
    except OSError as error:
        if error.errno in DISK_FAULTS:  # whose message is another one
            raise
        found = f"{reason(error)}, on trying to lock {lock.file}"
        fix, expected = "name a folder that you may write to", "an empty or a new folder"
        raise UserError(Problem(str(lock.folder), field, found, expected, fix)) from error
    if owner is not None:
        fix = f"wait for its end, or name another folder in `{field}`"
        if lock.judged:
            fix = f"{fix}; if it is gone, delete {lock.file}"
        expected = "a folder in which no other run is at work"
        raise UserError(Problem(str(lock.folder), field, f"in use by {owner}", expected, fix))


def take_over(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuses a used folder that is neither to be gone on with nor to be cleared, and clears it where that is asked."""
    if overwrite and folder.is_symlink():
        fix = "name the folder itself, or remove it by hand"
        raise _refused(folder, f"a link to {folder.resolve()}", fix, "a folder")
    if resume and (links := [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink()]):
        fix = "put the folders themselves there"
        raise _refused(folder, f"links: {name_list(links)}", fix, "folders and files of its own")
    is_run = any((folder / name).is_file() for name in ("recipe.yaml", "result.json"))
    if used(folder) and overwrite and not is_run:
        fix = "name another folder; --overwrite only removes runs of keeltune"
        raise _refused(folder, "files that no run wrote", fix)
    if used(folder) and not (resume or overwrite):
        fix = "--resume goes on with it, --overwrite starts over, or name another folder"
        raise _refused(folder, "a folder that is in use", fix)
    own = _own(folder) if overwrite else []
    for path in (*own, *_left(folder)):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _left(folder: Path) -> list[Path]:
    """What killed processes left in a folder of one's own, and in those that a run makes in it."""
    places = [place for place in (folder, *(folder / name for name in FOLDERS)) if place.is_dir()]
    return [path for place in places for path in place.iterdir() if LEFT.fullmatch(path.name)]


def used(folder: Path) -> bool:
    """Whether a folder holds anything of a run, or of anybody."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return any(name not in UNCOUNTED and not LEFT.fullmatch(name) for name in names)


def _refused(folder: Path, found: str, fix: str, expected: str = "an empty or a new folder") -> UserError:
    return UserError(Problem(str(folder), "output", found, expected, fix))


def _own(folder: Path) -> list[Path]:
    """What a run has written into its folder; a link among it is for nobody to follow."""
    seeds = [path for path in folder.glob("seed-*") if SEED.fullmatch(path.name) and (path / "recipe.yaml").is_file()]
    return [path for path in (*(folder / name for name in OURS), *seeds) if path.is_symlink() or path.exists()]
