"""Files opened only where they are files, written whole or not at all, and JSON in them."""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

_KINDS = {
    stat.S_IFDIR: "a folder, not a file",
    stat.S_IFIFO: "a named pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}


def open_regular(path: Path, root: Path | None = None) -> BinaryIO:
    """Opens a file to be read. Never waits, and reads no device: what is no regular file raises `OSError`, whose
    `strerror` says what it is.

    root   the folder below which the file must lie after resolving, links too; a link that is put into its way
           meanwhile is not followed
    """
    try:
        if root is None:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        else:
            handle = _open_below(path, root)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    mode = stat.S_IFMT(os.fstat(handle).st_mode)
    if mode != stat.S_IFREG:
        os.close(handle)
        raise OSError(errno.EINVAL, _KINDS.get(mode, "no file"), str(path))
    os.set_blocking(handle, True)
    return os.fdopen(handle, "rb")


def _open_below(path: Path, root: Path) -> int:
    """A handle of what `path` resolves to, step by step from `root`, none of which may be a link by now."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
    root = root.resolve()
    target = (root / path).resolve()
    if not target.is_relative_to(root):
        raise OSError(errno.EACCES, f"a path that leads out of {root}", str(path))
    steps = target.relative_to(root).parts
    folder = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        for step in steps[:-1]:
            inner = os.open(step, flags | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(steps[-1] if steps else ".", flags, dir_fd=folder)
    finally:
        os.close(folder)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none where there is no file. A text in them may hold U+2028, so that
    `splitlines` would cut it."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines if line]


def write_json(path: Path, value: Any) -> None:
    """JSON without NaN: what is no number is refused here, not read as one elsewhere."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: written under another name, flushed to disk, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: staged, synced, renamed, and the folder synced."""
    staging = path.with_name(f".staging-{os.getpid()}-{path.name}")
    try:
        with staging.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        staging.replace(path)
    except OSError:
        with suppress(OSError):
            staging.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
