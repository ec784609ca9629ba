"""A run's folder: claimed, read, cleared; and what a full disk or memory says."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeltune.evaluation import test_set_looks
from keeltune.recipe.fields import Recipe
from keeltune.recipe.paths import shared
from keeltune.runs import output_folder
from keeltune.runs.result import empty
from keeltune.runs.stored_result import SEED, read_result
from keeltune.training.preparation.material import Material
from keeltune.utils.errors import Diverged, Problem, Stopped, UserError, name_list
from keeltune.utils.files import write_json, write_text
from keeltune.utils.version import __version__

OURS = (
    "recipe.yaml",
    "result.json",
    "report.html",
    "log.jsonl",
    "skipped.jsonl",
    "media.jsonl",
    "model",
    "source_model",
    "adapter",
    "checkpoints",
    "predictions",
)
"""What a run writes into its folder, and all that `--overwrite` removes."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and the contents of its `result.json`."""

    folder: Path
    result: dict[str, Any]

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


@contextmanager
def status_of(folder: Path, recipe: Recipe, main: bool) -> Iterator[None]:
    """A run that ends early says so in its `result.json`; one that has its result keeps it."""
    status = "failed"
    try:
        yield
        return
    except Stopped:
        status = "stopped"
        raise
    except Diverged:
        status = "diverged"
        raise
    finally:
        if main and sys.exc_info()[0] is not None and not _has_result(folder):
            unfinished = {"keeltune": __version__, "task": recipe.task, "method": recipe.method, "status": status}
            with suppress(OSError):  # on a full disk the message counts, not the file
                write_json(folder / "result.json", {**empty(), **unfinished})


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


def claim(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuses a used output folder, or one that cannot be written, before anything is read."""

    def refuse(found: str, fix: str, expected: str = "an empty or a new folder") -> UserError:
        return UserError(Problem(str(folder), "output", found, expected, fix))

    if resume and overwrite:
        raise refuse("--resume and --overwrite", "leave one of them out", "to go on with a run, or to start over")
    output_folder.refuse_unwritable(folder)
    if overwrite and folder.is_symlink():
        raise refuse(f"a link to {folder.resolve()}", "name the folder itself, or remove it by hand", "a folder")
    if resume and (links := [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink()]):
        raise refuse(f"links: {name_list(links)}", "put the folders themselves there", "folders and files of its own")
    used = folder.is_dir() and any(path.name != test_set_looks.LOOKS for path in folder.iterdir())
    is_run = any((folder / name).is_file() for name in ("recipe.yaml", "result.json"))
    if used and overwrite and not is_run:
        raise refuse("files that no run wrote", "name another folder; --overwrite only removes runs of keeltune")
    if used and not (resume or overwrite):
        raise refuse(
            "a folder that is in use", "--resume goes on with it, --overwrite starts over, or name another folder"
        )
    if overwrite:  # but for the count of test-set evaluations: training again does not undo them
        for path in _own(folder):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _own(folder: Path) -> list[Path]:
    """What a run has written into its folder; a link among it is for nobody to follow."""
    seeds = [path for path in folder.glob("seed-*") if SEED.fullmatch(path.name) and (path / "recipe.yaml").is_file()]
    return [path for path in (*(folder / name for name in OURS), *seeds) if path.is_symlink() or path.exists()]


def write_skipped(folder: Path, material: Material) -> None:
    if material.skipped:
        lines = [json.dumps(_as_seen_from(folder, vars(problem)), ensure_ascii=False) for problem in material.skipped]
        write_text(folder / "skipped.jsonl", "".join(f"{line}\n" for line in lines))


def _as_seen_from(folder: Path, problem: Mapping[str, Any]) -> dict[str, Any]:
    """A row's problem, its file named as seen from a folder."""
    if not (file := problem.get("file")):
        return dict(problem)
    name = shared(Path(file), folder)
    return {**problem, "file": name, "where": problem["where"].replace(file, name)}
