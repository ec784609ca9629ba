"""Files opened only where they are files, written whole or not at all, and JSON in them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from keeltune.utils.errors import Problem, UserError
from keeltune.utils.system_faults import BROKEN, DISK_FAULTS, RETRY_AFTER, FailedWrite

_KINDS = {
    stat.S_IFDIR: "a folder, not a file",
    stat.S_IFIFO: "a named pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}


def open_regular(path: Path, root: Path | None = None) -> BufferedReader:
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


def without_dots(path: Path) -> Path:
    """The same place as a reader of it would write it: a recipe's `../runs/x` without the way up."""
    return path.resolve() if ".." in path.parts else path


def read_at_most(stream: BinaryIO, most: int) -> bytes:
    """What a file of an `open_regular` stream holds, up to one byte more than `most`, by which a larger one is known.

    Asked for many bytes at once, Python takes room for all of them, however few there are.
    """
    return stream.read(min(os.fstat(stream.fileno()).st_size, most) + 1)


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


def write_json(path: Path, value: Any) -> None:
    """JSON without NaN: what is no number is refused here, not read as one elsewhere."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: written under another name, flushed to disk, renamed. A lone surrogate, which UTF-8 has no
    bytes for, is written as \\udXXX, which is its spelling in JSON too."""
    make_folder(path.parent)
    write_atomically(path, text.encode("utf-8", "backslashreplace"))


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: staged, synced, renamed, and the folder synced.

    It is for its owner alone to read and to change, whatever the umask, as it may hold data; a link in its place is
    replaced, not followed. A device that fails is tried once more. Raises: OSError.
    """
    for again in (True, False):
        try:
            _write(path, content)
            return
        except OSError as error:
            if error.errno not in DISK_FAULTS:
                raise
            if error.errno not in BROKEN or not again:
                raise FailedWrite.of(error, path, len(content)) from error
        time.sleep(RETRY_AFTER)


def write_unsynced(path: Path, content: bytes) -> None:
    """As `write_atomically`, but the disk is not waited for: for what is written often, and may be lost with the power.
    Raises: OSError."""
    with _staged(path) as stream:
        stream.write(content)


def _write(path: Path, content: bytes) -> None:
    with _staged(path) as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _staged(path: Path) -> Iterator[BinaryIO]:
    """What is written within takes the file's place at the end, unless that is an error."""
    staging = path.with_name(f".staging-{os.getpid()}-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}")
    try:
        staging.unlink(missing_ok=True)
        with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as stream:
            yield stream
        staging.replace(path)
    except BaseException:  # a signal, too
        with suppress(OSError):
            staging.unlink(missing_ok=True)
        raise


def refuse_other_file(path: Path, head: bytes) -> None:
    """UserError where `path` is there and is no file that begins with `head`, as what will take its place does."""
    try:
        with open_regular(path) as stream:
            same = stream.read(len(head)).lower() == head
        found = "a file of another kind"
    except FileNotFoundError:
        return
    except OSError as error:
        same, found = False, str(error.strerror)
    if not same:
        expected = "a new file, or an earlier one of the same kind"
        raise UserError(Problem(str(path), "--output", found, expected, "name another file"))


@contextmanager
def owners_alone() -> Iterator[None]:
    """Within: no file or folder that this process makes, or a library in it, may be read or written to by others."""
    before = os.umask(0o077)
    os.umask(before | 0o077)
    try:
        yield
    finally:
        os.umask(before)


def make_folder(folder: Path) -> None:
    """The folder with those above it, where they are not there yet."""
    with owners_alone():
        folder.mkdir(parents=True, exist_ok=True)


def try_writing(folder: Path) -> None:
    """Raises OSError where no file can be made, synced and renamed in a folder; it leaves nothing, not even the folder
    where that was not there. The file's name is as long as any that follows."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    file = folder / f".trial-{os.getpid()}".ljust(120, "-")
    try:
        make_folder(folder)
        write_atomically(file, b"\0" * 4096)
        file.unlink()
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
