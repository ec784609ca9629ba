"""One process owns a folder: a lock that ends with its holder, however that ends, and says who it is.

`.lock` in the folder holds {"pid", "host", "started", …} as JSON and is locked by the kernel (`flock`), which lets go
when the holder is gone: one that a killed process left is taken over. Where the file system knows no such locks, the
file itself is the lock, and whether its process is still there is asked of this machine.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from keeltune.utils.process_state import ProcessName, host, this_process

LOCK = ".lock"

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
"""What a file system says that has no locks."""

SETTLED = 0.2
"""Seconds after which two processes that took a file for their lock at once agree on who was later."""

PATIENCE = 2.0
"""Seconds for which a lock is waited for whose holder is gone."""

_OPEN: dict[int, int] = {}
"""Descriptors of held locks, and the process that holds them."""


def _close_in_child() -> None:
    """A forked child has the parent's lock too, and would keep it after the parent's death."""
    for descriptor in _OPEN:
        with suppress(OSError):
            os.close(descriptor)
    _OPEN.clear()


os.register_at_fork(after_in_child=_close_in_child)


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: `process` on the machine `host`, since `started` (UTC).

    inode   of the file that says so: a copy of the folder is not held by who holds the folder
    """

    process: ProcessName
    host: str
    started: str
    inode: int

    def __str__(self) -> str:
        named = f"process {self.process.pid} on {self.host}, started {self.started}"
        return named if self.process.pid else "another process, which has not said yet who it is"

    @property
    def gone(self) -> bool:
        """Whether it was a process of this machine that is no more. Of another machine nobody can tell."""
        there, here = self.process.place.split(), this_process().place.split()
        rebooted = there[:1] == here[:1] and there[1:2] != here[1:2]
        return rebooted or self.process.state() == "gone"


UNKNOWN = Owner(ProcessName("", 0, 0), "", "", 0)


class FolderLock:
    """The lock of a folder, which is made where it is not there. `judged`: whether its file system has no locks."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / LOCK
        self.judged = False
        self.left: Owner | None = None
        """Who held it before and ended without letting go."""
        self._descriptor: int | None = None
        self._made: list[Path] = []

    def take(self) -> Owner | None:
        """None where the lock is ours now, else who has it. Raises OSError where the folder cannot be written to."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self._make_folder()
            try:
                descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:  # another process took the folder away, which it had made and not used
                continue
            try:
                owner = self._held_by_another(descriptor, fcntl.LOCK_EX)
            except OSError:
                os.close(descriptor)
                raise
            if owner is not None:
                os.close(descriptor)
                if (owner is UNKNOWN or owner.gone) and time.monotonic() < deadline:
                    time.sleep(0.05)  # a child that its holder was forking has not let go yet, or one who asked
                    continue
                return owner
            if not self._is_file(descriptor):  # its holder removed it just before we locked what it had been
                os.close(descriptor)
                continue
            return self._sign(descriptor)

    def owner(self) -> Owner | None:
        """Who has the lock; None where nobody does. Makes nothing, and takes nothing."""
        try:
            descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            owner = self._held_by_another(descriptor, fcntl.LOCK_SH)
            return None if owner is UNKNOWN or (owner and owner.gone) else owner
        finally:
            os.close(descriptor)

    def _held_by_another(self, descriptor: int, kind: int) -> Owner | None:
        """Locks an open lock, or says who has; where there are no locks, whose process is there by what it says."""
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            return _read(descriptor) or UNKNOWN
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self.judged = True
        before = _read(descriptor)
        return before if before is not None and not before.gone else None

    def _sign(self, descriptor: int) -> Owner | None:
        """Writes into a lock that is free whose it is; None where that lasts."""
        self.left = _read(descriptor, held=not self.judged)
        try:
            ours = _write(descriptor)
        except OSError:  # a full disk
            self.file.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        if self.judged:  # of two that came at once the later one has it
            time.sleep(SETTLED)
            if (owner := _read(descriptor)) != ours:
                os.close(descriptor)
                return owner or UNKNOWN
        self._descriptor = descriptor
        _OPEN[descriptor] = os.getpid()
        return None

    def release(self) -> None:
        """Lets go and takes the file away, and the folder too where it was made for the lock and holds nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None or _OPEN.pop(descriptor, None) != os.getpid():  # a forked child has nothing to let go
            return
        with suppress(OSError):
            if self._is_file(descriptor):
                self.file.unlink()
        os.close(descriptor)
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()

    def _make_folder(self) -> None:
        missing = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._made = self._made or missing

    def _is_file(self, descriptor: int) -> bool:
        """Whether what was opened is still what lies there under the lock's name."""
        try:
            there = os.stat(self.file, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))


@contextmanager
def waited_for(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Within: the lock of a folder that several runs fill with the same; who comes later waits for the earlier ones.

    Raises OSError where the folder cannot be written to.
    """
    lock, told = FolderLock(folder), False
    while (owner := lock.take()) is not None:
        if not told:
            told = True
            gone = f"; if it is gone, delete {lock.file}" if lock.judged else ""
            say(f"waiting for {owner}, which is at work in {folder}{gone}")
        time.sleep(0.2)
    try:
        yield
    finally:
        lock.release()


def _read(descriptor: int, *, held: bool = False) -> Owner | None:
    """Who an open lock names; None where it names nobody. Another one may be writing it just now, unless we hold it."""
    for _ in range(1 if held else 20):
        with suppress(ValueError, KeyError, TypeError):
            told = json.loads(os.pread(descriptor, 4096, 0))
            process = ProcessName(str(told["place"]), int(told["pid"]), int(told["ticks"]))
            owner = Owner(process, str(told["host"]), str(told["started"]), int(told["inode"]))
            return owner if owner.inode == os.fstat(descriptor).st_ino else None
        if not held and not os.fstat(descriptor).st_size:
            time.sleep(0.01)
    return None


def _write(descriptor: int) -> Owner:
    """Writes this process into an open lock."""
    process, started = this_process(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    owner = Owner(process, host(), started, os.fstat(descriptor).st_ino)
    told = {"pid": process.pid, "host": owner.host, "started": started}
    told |= {"place": process.place, "ticks": process.started, "inode": owner.inode}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(told).encode(), 0)
    return owner
