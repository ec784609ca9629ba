"""What the machine or a file does to a run, as a message: a full disk or memory, a file that cannot be read or written.

One place for what opening, reading, decoding, encoding and writing raise. What is not here is a bug of ours.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keeltune.utils.errors import KeeltuneError, OutOfResources, Problem, UserError

NO_SPACE = (errno.EFBIG, errno.ENOSPC, errno.EDQUOT)

FULL_DISK = ("no space left", "os error 28", "disk quota", "file write failed", "pytorchstreamwriter failed writing")

NO_MEMORY = ("can't allocate memory", "not enough memory", "cannot allocate memory")

UNREADABLE = (OSError, ValueError, RecursionError, OverflowError)
"""What a file that is no whole one of its kind makes its reader raise; UnicodeError, JSONDecodeError and ArrowInvalid
are ValueErrors."""


@contextmanager
def system_faults(folder: Path | None = None) -> Iterator[None]:
    """Within: a full disk or memory ends with OutOfResources, whichever library meets it, and a file that cannot be
    opened or written with a UserError that names it. The tokenizers' pattern matcher gives up after 10^7 steps, by a
    panic of Rust. `folder`: whose disk it is; None: the working folder."""
    try:
        yield
    except KeeltuneError:
        raise
    except Exception as error:
        if (foreseen := _foreseen(error, folder or Path())) is None:
            raise
        raise foreseen from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        found = f"a library in Rust gave up ({reason(error)})"
        expected = "a tokenizer whose patterns come to an end on each text, and files that it can read"
        problem = Problem("the model", "tokenizer", found, expected, "use a tokenizer as it is published")
        raise UserError(problem) from None


def _foreseen(error: Exception, folder: Path) -> KeeltuneError | None:
    text = f"{error} {error.__cause__ or ''}".lower()
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
    if out_of_memory or any(sign in text for sign in NO_MEMORY):
        return OutOfResources(
            f"out of memory ({error}); lower training.batch_size and raise gradient_accumulation_steps by the same "
            "factor: the result is the same"
        )
    if (isinstance(error, OSError) and error.errno in NO_SPACE) or any(sign in text for sign in FULL_DISK):
        free = shutil.disk_usage(next(p for p in (folder, *folder.absolute().parents) if p.exists())).free
        return OutOfResources(
            f"the disk of {folder} is full ({free} bytes free; {error}); make room and go on with --resume"
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return UserError(unusable(error, str(error.filename), "", "a file or folder that can be opened and written"))
    return None


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
