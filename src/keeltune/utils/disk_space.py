"""What a disk has left, and whether that is enough for what will be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from keeltune.utils.errors import OutOfResources


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write where `path` is, or will be."""
    return shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists())).free


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder and below it; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def require_room(folder: Path, needed: float, what: str) -> None:
    """Refuses before the start what the disk cannot hold. `needed`: bytes; `what` writes them, in words.

    Raises: OutOfResources, which names the folder, the bytes that are needed and those that are free.
    """
    if needed > (free := free_bytes(folder)):
        raise OutOfResources(
            f"{what} needs {needed:.0f} bytes in {folder.absolute()} and the disk has {free} free; make room, or write "
            "elsewhere, and start the same command again"
        )
