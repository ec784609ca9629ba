"""A model's folder under a manifest, by which any change of it is found before it is read.

    keeltune-manifest.json     the size and SHA-256 of each file; transformers passes over it

A folder without one is somebody else's, and taken as it is. Texts for people (README.md) are no part of it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from keeltune.models import adapters
from keeltune.utils import manifest
from keeltune.utils.errors import Problem, StateRefused, UserError
from keeltune.utils.manifest import NotAsWrittenError

MANIFEST = "keeltune-manifest.json"

UNREAD = frozenset((".md", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx", ".gguf", ".tflite"))
"""Endings of files that may lie in a model folder and are never opened: texts for people, and weights of other forms,
pickles among them."""


def read_files(folder: Path) -> list[Path]:
    """The files of a model folder that may be read, by their names."""
    ours = (p for p in folder.iterdir() if p.is_file() and p.suffix not in UNREAD and p.name[0] != ".")
    return sorted(p for p in ours if p.name != MANIFEST)


def refuse_changed(source: str, where: str, field: str) -> None:
    """StateRefused where a model's folder, or one below an adapter, is not what keeltune wrote; with each file."""
    folders = [Path(source)] if Path(source).is_dir() else []
    problems = [_problem(where, field, folder, found) for folder in folders for found in changes(folder)]
    with suppress(UserError):  # what is wrong with an adapter's settings is said where they are read
        bases = [] if problems else [Path(adapter.base) for adapter in adapters.adapters_on(source)]
        problems += [_problem(where, field, base, found) for base in bases if base.is_dir() for found in changes(base)]
    if problems:
        raise StateRefused(problems)


def _problem(where: str, field: str, folder: Path, found: str) -> Problem:
    recipe, kept = folder.parent / "recipe.yaml", any(folder.parent.glob("checkpoints/checkpoint-*"))
    how = ("from its run's checkpoints", "--resume") if kept else ("with its whole run", "--overwrite")
    again = f"make it again {how[0]}: keeltune train {recipe} {how[1]}; or " * recipe.is_file()
    fix = f"{again}copy it again; a change that is meant: delete {folder / MANIFEST}, and it is taken as it is"
    return Problem(where, field, f"{folder}: {found}", "the model as keeltune wrote it", fix, "changed model")


def changes(folder: Path) -> list[str]:
    """How a model's folder differs from what was written into it: a file that is missing, changed, or there besides
    and would be read. Nothing for a folder without a manifest."""
    if not (folder / MANIFEST).exists():
        return []
    try:
        written = written_files(folder)
    except NotAsWrittenError as error:
        return [str(error)]
    found = []
    for name, told in written.items():
        try:
            manifest.check(folder / name, told)
        except NotAsWrittenError as error:
            found.append(str(error))
    more = (file.name for file in read_files(folder) if file.name not in written)
    return found + [f"{name} was not written by keeltune" for name in more]


def written_files(folder: Path) -> dict[str, dict[str, Any]]:
    """The files of a folder's manifest, each with its size and digest. Raises NotAsWrittenError."""
    files: Any = manifest.opened(folder / MANIFEST).get("files")
    entries = files.values() if isinstance(files, dict) else [None]
    if not all(isinstance(one, dict) and isinstance(one.get("sha256"), str) and "bytes" in one for one in entries):
        raise NotAsWrittenError(f"{MANIFEST} is not what was written: it has no files with sizes and digests")
    return dict(files)
