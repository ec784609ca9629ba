"""SHA-256 of values and of files."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from keeltune.utils.files import open_regular


def digest_of(*parts: bytes) -> bytes:
    """SHA-256 of parts whose borders count."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def canonical(value: Any) -> str:
    """JSON of which there is but one spelling."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


SETTLED = 2 * 10**9
"""Nanoseconds after which a file's times tell a later change of it apart, on any file system (FAT counts 2 s)."""

_known: dict[tuple[int, ...], str] = {}
"""Digests of this process's files by what `state_of` says of them: a model of gigabytes is read once."""


def file_digest(file: Path) -> str:
    """SHA-256 of a file, read in pieces; of one that has not changed since this process read it, from memory."""
    with open_regular(file) as stream:
        state = state_of(os.fstat(stream.fileno()))
        if state in _known:
            return _known[state]
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if state == state_of(os.fstat(stream.fileno())) and time.time_ns() - max(state[-2:]) > SETTLED:
            _known[state] = digest
    return digest


def state_of(status: os.stat_result) -> tuple[int, ...]:
    """What changes with a file's content, as far as can be told without reading it: device, inode, size, the times of
    the last change of its content and of its entry (which nobody can set)."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
