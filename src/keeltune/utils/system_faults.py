"""What the machine or a file does to a run, as a message: a full disk or memory, a file that cannot be read or written.

One place for what opening, reading, decoding, encoding and writing raise. What is not here is a bug of ours.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from keeltune.utils.disk_space import free_bytes
from keeltune.utils.errors import KeeltuneError, OutOfResources, Problem, UserError

Result = TypeVar("Result")

NO_SPACE = {errno.ENOSPC: "no space left", errno.EDQUOT: "the quota is used up", errno.EFBIG: "a file is too large"}
"""What keeps a disk from taking more; EFBIG is a limit of the process (`ulimit -f`) or of the file system."""

BROKEN = {errno.EIO: "input/output error", errno.ESTALE: "a stale file handle", errno.EREMOTEIO: "a remote I/O error"}
"""What a device or a network file system answers that fails, perhaps only once."""

DISK_FAULTS = {**NO_SPACE, **BROKEN}

FULL_DISK = ("no space left", "disk quota", "file write failed", "pytorchstreamwriter failed writing", "file too large")
"""What libraries say of `NO_SPACE` that raise errors of their own; those in Rust name the number: `os error 28`."""

NO_MEMORY = ("can't allocate memory", "not enough memory", "cannot allocate memory", "out of memory", "bad_alloc",
             "can't start new thread", "status_alloc_failed", "os error 12)",
             "could not create a primitive")  # fmt: skip
"""What libraries say where the memory is full: of the CPU, of a GPU, of a process (`ulimit -v`)."""

HALVES = "lower training.batch_size and raise gradient_accumulation_steps by the same factor: the result is the same"
"""What is to be done where nothing is known of the run."""

RETRY_AFTER = 0.5
"""Seconds after which a write that failed with an input/output error is tried again."""

UNREADABLE = (OSError, ValueError, RecursionError, OverflowError)
"""What a file that is no whole one of its kind makes its reader raise; UnicodeError, JSONDecodeError and ArrowInvalid
are ValueErrors."""


class FailedWrite(OSError):
    """A file that could not be written, with its name and the bytes that it needs."""

    needed: int = 0

    @classmethod
    def of(cls, error: OSError, path: Path, needed: int) -> FailedWrite:
        failed = cls(error.errno, error.strerror, str(path))
        failed.needed = needed
        return failed


@contextmanager
def system_faults(folder: Path | None = None, needed: int | None = None, *, smaller: str = "") -> Iterator[None]:
    """Within: a full disk or memory ends with OutOfResources, whichever library meets it, and a file that cannot be
    opened or written with a UserError that names it. The tokenizers' pattern matcher gives up after 10^7 steps, by a
    panic of Rust.

    Args:
        folder: what is written to; None: the working folder. needed: bytes that are written. smaller: what to do where
            the memory is full.
    """
    try:
        yield
    except KeeltuneError:
        raise
    except Exception as error:
        if (known := foreseen(error, folder or Path(), needed, smaller)) is None:
            raise
        raise known from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        found = f"a library in Rust gave up ({reason(error)})"
        expected = "a tokenizer whose patterns come to an end on each text, and files that it can read"
        problem = Problem("the model", "tokenizer", found, expected, "use a tokenizer as it is published")
        raise UserError(problem) from None


def foreseen(error: BaseException, folder: Path, needed: int | None = None, smaller: str = "") -> KeeltuneError | None:
    """An error of a library, or one behind it, as ours; None where it is none of the machine's. See `system_faults`."""
    chain = list(_chain(error))
    for one in chain:
        if is_out_of_memory(one):
            at_hand = "".join(f" {note}" for held in chain for note in getattr(held, "__notes__", ()))
            return OutOfResources(f"out of memory{at_hand} ({reason(one)}); {smaller or HALVES}")
        if (what := _disk_fault(one)) is not None:
            return _full_disk(one, folder, what, needed)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return OutOfResources(f"{reason(error)}; allow more (ulimit -n)")
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return UserError(unusable(error, str(error.filename), "", "a file or folder that can be opened and written"))
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up: the processor's, a device's, or what the process may have."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return any(sign in str(error).lower() for sign in NO_MEMORY)


def persistently(write: Callable[[], Result], path: Path, needed: int | None = None) -> Result:
    """Calls `write`, which may be called again: once more where a device fails. `needed`: bytes.

    Raises: OutOfResources, which names `path`, the bytes that are needed and those that are free.
    """
    with system_faults(path, needed):
        try:
            return write()
        except Exception as error:
            if not any(_errno(one) in BROKEN for one in _chain(error)):
                raise
        time.sleep(RETRY_AFTER)
        return write()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from, which a library may have replaced by one of its own."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _errno(error: BaseException) -> int | None:
    """The system's number of an error, also in the text of a library in Rust (safetensors)."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told.group(1)) if told else None


def _disk_fault(error: BaseException) -> str | None:
    """What is wrong with a disk, of an error that says so."""
    number = _errno(error)
    if number in DISK_FAULTS:
        return DISK_FAULTS[number]
    return "no space left" if any(sign in str(error).lower() for sign in FULL_DISK) else None


def _full_disk(error: BaseException, folder: Path, what: str, needed: int | None) -> OutOfResources:
    path = Path(os.fsdecode(error.filename)) if isinstance(error, OSError) and error.filename else folder
    asked = error.needed if isinstance(error, FailedWrite) else needed
    room = f"{asked} bytes needed, {free_bytes(path)} free" if asked else f"{free_bytes(path)} bytes free"
    number = _errno(error)
    fix = "see to the disk" if number in BROKEN else "make room"
    fix = "allow larger files (ulimit -f)" if number == errno.EFBIG else fix
    what = f"{what} ({room}; {reason(error)}); {fix} and go on with --resume"
    return OutOfResources(f"the disk of {path.absolute()} takes no more: {what}")


@contextmanager
def reading(file: Path, expected: str, fix: str, field: str = "") -> Iterator[None]:
    """Within: whatever `file` makes its reader raise is a UserError that names it and what was `expected` of it."""
    try:
        yield
    except KeeltuneError:
        raise
    except UNREADABLE as error:
        raise UserError(unusable(error, str(file), field, expected, fix)) from error


def unusable(error: Exception, where: str, field: str, expected: str, fix: str = "") -> Problem:
    """The problem of a file that cannot be read or written."""
    return Problem(where, field, reason(error), expected, fix or "mend the path or its permissions, or name another")


def reason(error: BaseException) -> str:
    """What an error of reading or writing says, in one line."""
    if isinstance(error, RecursionError):
        return "brackets inside brackets, deeper than any file of its kind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
