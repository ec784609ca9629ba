"""What a full disk, a device that fails and a full memory make libraries raise, as messages of ours."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from keeltune.utils import disk_space, files, system_faults
from keeltune.utils.errors import OutOfResources, UserError


def oserror(number: int, file: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), file)


def behind(error: Exception, other: Exception) -> Exception:
    """`error`, raised while `other` was handled."""
    try:
        try:
            raise other
        except type(other):
            raise error  # noqa: B904
    except type(error) as raised:
        return raised


FULL = [
    oserror(errno.ENOSPC), oserror(errno.EDQUOT, "/data/log.jsonl"), oserror(errno.EFBIG), oserror(errno.EIO),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
    SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"),
    SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/0"),
    behind(RuntimeError("saving failed"), oserror(errno.ENOSPC)),
]  # fmt: skip


@pytest.mark.parametrize("error", FULL, ids=lambda e: str(e)[:40])
def test_a_disk_that_takes_no_more(error, tmp_path):
    with pytest.raises(OutOfResources) as raised, system_faults.system_faults(tmp_path / "out", needed=4711):
        raise error
    text = str(raised.value)
    assert "4711 bytes needed, " in text
    assert str(disk_space.free_bytes(tmp_path))[:3] in text
    named = getattr(error, "filename", None) or str(tmp_path / "out")
    assert f"the disk of {named} takes no more" in text
    assert "--resume" in text


MEMORY = [
    MemoryError(), oserror(errno.ENOMEM),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to "
                 "allocate 400 bytes. Error code 12 (Cannot allocate memory)"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("CUDA error: out of memory"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), RuntimeError("std::bad_alloc"),
    RuntimeError("can't start new thread"), RuntimeError("could not create a primitive"),
    SafetensorError("Error while deserializing: I/O error: Cannot allocate memory (os error 12)"),
]  # fmt: skip


@pytest.mark.parametrize("error", MEMORY, ids=lambda e: str(e)[:40])
def test_a_memory_that_is_full(error):
    with pytest.raises(OutOfResources, match="out of memory"), system_faults.system_faults():
        raise error


@pytest.mark.parametrize(
    "error", [ValueError("os error 28 of them"), RuntimeError("shapes differ"), oserror(errno.EBADF), KeyError("x")]
)
def test_what_is_a_bug_stays_one(error):
    with pytest.raises(type(error)), system_faults.system_faults():
        raise error


def test_a_file_that_may_not_be_written_is_named():
    with pytest.raises(UserError, match="/etc/mine"), system_faults.system_faults():
        raise oserror(errno.EACCES, "/etc/mine")


def failing(times: int, number: int = errno.EIO):
    left = [times]

    def write() -> str:
        if left[0]:
            left[0] -= 1
            raise oserror(number)
        return "written"

    return write


def test_a_device_that_fails_once_is_tried_once_more(tmp_path, monkeypatch):
    monkeypatch.setattr(system_faults, "RETRY_AFTER", 0.0)
    assert system_faults.persistently(failing(1), tmp_path) == "written"
    with pytest.raises(OutOfResources, match="input/output error"):
        system_faults.persistently(failing(2), tmp_path)
    with pytest.raises(OutOfResources, match="no space left"):  # which waiting does not mend
        system_faults.persistently(failing(1, errno.ENOSPC), tmp_path)


@pytest.mark.parametrize(("times", "number", "written"), [(1, errno.EIO, True), (2, errno.EIO, False),
                                                          (1, errno.ENOSPC, False)])  # fmt: skip
def test_a_file_is_written_or_named_with_its_bytes(tmp_path, monkeypatch, times, number, written):
    monkeypatch.setattr(files, "RETRY_AFTER", 0.0)
    sync = failing(times, number)
    monkeypatch.setattr(os, "fsync", lambda handle: sync())
    file = tmp_path / "result.json"
    if written:
        files.write_atomically(file, b"{}")
        assert file.read_bytes() == b"{}"
    else:
        with pytest.raises(OutOfResources, match=rf"{file} .*\(2 bytes needed"), system_faults.system_faults():
            files.write_atomically(file, b"{}")
        assert list(tmp_path.iterdir()) == []


def test_what_a_disk_cannot_hold_is_refused(tmp_path):
    free = disk_space.free_bytes(tmp_path / "new" / "folder")
    disk_space.require_room(tmp_path, free // 2, "the run")
    with pytest.raises(OutOfResources, match=rf"the run needs {10 * free} bytes in {tmp_path} and the disk has"):
        disk_space.require_room(tmp_path, 10 * free, "the run")


def test_bytes_in_a_folder(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"123")
    (tmp_path / "other").write_bytes(b"45")
    assert disk_space.bytes_in(tmp_path) == 5
    assert disk_space.bytes_in(tmp_path / "none") == 0
