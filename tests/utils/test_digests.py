"""Digests of files: kept within a process for as long as nothing says that the file has changed."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from keeltune.utils import digests


@pytest.fixture
def readings(monkeypatch) -> list[int]:
    """A growing list: an entry for each file that was read to its end."""
    read, whole = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda stream, name: (read.append(1), whole(stream, name))[1])
    return read


def test_a_file_is_read_once_until_it_changes(tmp_path, readings, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(b"one" * 1000)
    monkeypatch.setattr(digests, "SETTLED", -(10**18))  # as if it had been written long ago
    first = digests.file_digest(file)
    assert first == digests.file_digest(file) == hashlib.sha256(b"one" * 1000).hexdigest()
    assert len(readings) == 1
    before = file.stat()
    time.sleep(0.02)  # a file's times move by the kernel's clock, a few milliseconds at a time
    file.write_bytes(b"two" * 1000)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # whoever sets the time of the content back
    assert digests.file_digest(file) == hashlib.sha256(b"two" * 1000).hexdigest()
    (tmp_path / "other").write_bytes(b"six" * 1000)
    os.utime(tmp_path / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "other").replace(file)
    assert digests.file_digest(file) == hashlib.sha256(b"six" * 1000).hexdigest()


def test_a_file_that_was_written_just_now_is_read_again(tmp_path, readings):
    """Two contents may have the same times within the clock's step."""
    (tmp_path / "f").write_bytes(b"x")
    digests.file_digest(tmp_path / "f")
    digests.file_digest(tmp_path / "f")
    assert len(readings) == 2
