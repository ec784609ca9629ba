"""A folder whose manifest says what every file in it holds: staged, digested, synced, renamed, and read again.

    manifest.json    the size and SHA-256 of each file, what its writer says of them, and its own digest

A folder that is put in place by `put_in_place` is whole or not there: a kill, a full disk or a power cut before the
rename leaves a `.staging-…` folder, one after it leaves nothing to do. A folder goes by a rename to `.trash-…` first,
so that a half removed one has never its name. `sweep` takes away what a killed writer left.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from keeltune.utils.digests import canonical, file_digest
from keeltune.utils.files import open_regular, read_at_most, write_atomically

MANIFEST = "manifest.json"

STAGING, TRASH = ".staging-", ".trash-"

LARGEST = 1 << 26
"""Bytes of a manifest at most: 300,000 files."""


class NotAsWrittenError(Exception):
    """A file is missing, cut or changed since it was written. The message names it, and says how it differs."""


def sealed(values: Mapping[str, Any]) -> bytes:
    """A mapping as JSON with its own digest, of which there is but one spelling: any flipped bit shows."""
    return canonical({**values, "digest": _digest(values)}).encode()


def opened(file: Path) -> dict[str, Any]:
    """The mapping that `sealed` wrote into a file, with its digest. Raises NotAsWrittenError."""
    try:
        with open_regular(file) as stream:
            content = read_at_most(stream, LARGEST)
    except FileNotFoundError:
        raise NotAsWrittenError(f"{file.name} is missing") from None
    except OSError as error:
        raise NotAsWrittenError(f"{file.name} cannot be read ({error.strerror})") from None
    with suppress(ValueError, RecursionError, AttributeError, TypeError):
        values = json.loads(content.decode("utf-8"))
        if sealed({name: value for name, value in values.items() if name != "digest"}) == content:
            return dict(values)
    raise NotAsWrittenError(f"{file.name} is not what was written: its digest is not that of its content")


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(values).encode()).hexdigest()


def entry(file: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"bytes": file.stat().st_size, "sha256": file_digest(file)}


def check(file: Path, told: Mapping[str, Any]) -> None:
    """Raises NotAsWrittenError where a file is not what its `entry` told."""
    try:
        if not file.is_file():
            raise NotAsWrittenError(f"{file.name} is missing")
        if (size := file.stat().st_size) != told["bytes"]:
            raise NotAsWrittenError(f"{file.name} has {size} bytes, {told['bytes']} were written")
        if (digest := file_digest(file)) != told["sha256"]:
            now, then = digest[:16], told["sha256"][:16]
            raise NotAsWrittenError(f"{file.name} has the SHA-256 {now}…, {then}… was written")
    except OSError as error:
        raise NotAsWrittenError(f"{file.name} cannot be read ({error.strerror})") from None


def seal_folder(folder: Path, facts: Mapping[str, Any] | None = None, *, name: str = MANIFEST) -> dict[str, Any]:
    """Syncs all files of a folder and of those below it, and writes its manifest: `files` and the writer's `facts`."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for path in (*files.values(), *(path for path in folder.rglob("*") if path.is_dir())):
        sync(path)
    manifest = {**(facts or {}), "files": {told: entry(path) for told, path in files.items() if told != name}}
    write_atomically(folder / name, sealed(manifest))
    return manifest


def verified(folder: Path, *, name: str = MANIFEST) -> dict[str, Any]:
    """The manifest of a folder that holds what was written into it. Raises NotAsWrittenError."""
    manifest = opened(folder / name)
    for told, facts in manifest["files"].items():
        check(folder / told, facts)
    return manifest


def put_in_place(staging: Path, folder: Path) -> None:
    """A sealed folder gets its name, in place of one that had it; the rename is on disk when this returns."""
    if folder.exists():
        remove(folder)
    staging.rename(folder)
    sync(folder.parent)


def remove(path: Path) -> None:
    """Takes a file or folder away: out of its place at once, whatever happens while it is deleted."""
    trash = path.with_name(f"{TRASH}{path.name}")
    _delete(trash)
    with suppress(FileNotFoundError):
        path.rename(trash)
    _delete(trash)


def sweep(folder: Path, patterns: Iterable[str] = (f"{STAGING}*", f"{TRASH}*")) -> None:
    """Takes away what a killed writer left in a folder."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """A file's content, or a folder's list of names, is on disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
