"""The lock of a folder: one holder, whoever forks, is killed, or has a file system without locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from keeltune.utils import folder_lock
from keeltune.utils.folder_lock import LOCK, FolderLock


@pytest.fixture(params=["flock", "judged"])
def kind(request, monkeypatch):
    """With the kernel's locks, and on a file system that has none."""
    if request.param == "judged":

        def none(*args):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", none)
        monkeypatch.setattr(folder_lock, "SETTLED", 0.0)
    return request.param


def in_child(function) -> int:
    """The id of a forked child that does something and stays, once it has done it."""
    ready, done = os.pipe()
    child = os.fork()
    if not child:
        function()
        os.write(done, b"x")
        signal.pause()
        os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(done)
    return child


def end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_there_is_one_holder_and_it_is_named(tmp_path, kind):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert first.take() is None
    owner = second.take()
    assert (owner.process.pid, owner.host) == (os.getpid(), socket.gethostname())
    assert str(os.getpid()) in str(owner) and owner.started in str(owner)
    assert second.owner() == owner
    first.release()
    assert second.owner() is None
    assert not (tmp_path / LOCK).exists()
    assert second.take() is None
    assert second.left is None
    second.release()


def test_a_folder_that_was_made_for_the_lock_goes_with_it(tmp_path, kind):
    lock = FolderLock(tmp_path / "a" / "b")
    assert lock.take() is None
    lock.release()
    assert not (tmp_path / "a").exists()
    assert lock.take() is None
    (tmp_path / "a" / "b" / "result.json").write_text("{}")
    lock.release()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["result.json"]


def test_one_that_a_killed_process_left_is_taken_over(tmp_path, kind):
    child = in_child(lambda: FolderLock(tmp_path).take())
    lock = FolderLock(tmp_path)
    assert lock.take().process.pid == child
    end(child)
    assert (tmp_path / LOCK).exists()
    assert lock.owner() is None
    assert lock.take() is None
    assert lock.left.process.pid == child
    lock.release()


def test_a_forked_child_neither_keeps_nor_ends_it(tmp_path):
    lock = FolderLock(tmp_path)
    lock.take()
    child = in_child(lock.release)  # as what unwinds in a worker does
    try:
        assert FolderLock(tmp_path).take() is not None
        lock.release()
        assert lock.take() is None
        lock.release()
    finally:
        end(child)


def test_a_child_that_outlives_its_killed_parent_keeps_nothing(tmp_path):
    """As a data worker does for some seconds, or one that hangs for ever."""

    def takes_and_forks() -> None:
        FolderLock(tmp_path).take()
        (tmp_path / "worker").write_text(str(in_child(lambda: None)))

    end(in_child(takes_and_forks))
    try:
        assert FolderLock(tmp_path).take() is None
    finally:
        os.kill(int((tmp_path / "worker").read_text()), signal.SIGKILL)


def test_another_process_of_the_same_number_is_not_its_holder(tmp_path, monkeypatch):
    """Without the kernel's locks a number alone would hold a folder for ever, once another process has it."""
    lock = FolderLock(tmp_path)
    lock.take()
    told = json.loads((tmp_path / LOCK).read_text())
    lock.release()

    def none(*args):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(folder_lock, "SETTLED", 0.0)

    def says(**values) -> None:
        (tmp_path / LOCK).touch()
        (tmp_path / LOCK).write_text(json.dumps({**told, "inode": (tmp_path / LOCK).stat().st_ino, **values}))

    says()
    assert lock.take().process.pid == os.getpid()
    says(ticks=told["ticks"] - 1)
    assert lock.take() is None
    lock.release()
    says(place="elsewhere 1 pid:[2]", host="another machine")
    assert lock.take().host == "another machine"  # of which nobody here can say that it is gone
    machine, boot, *rest = told["place"].split()
    says(place=" ".join([machine, boot[::-1], *rest]))  # it has been started anew since
    assert lock.take() is None
    lock.release()
    says(inode=1)  # a copy of the folder is nobody's
    assert lock.take() is None
    lock.release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', "\0" * 9000])
def test_a_lock_that_names_nobody_is_still_one(tmp_path, monkeypatch, content):
    monkeypatch.setattr(folder_lock, "PATIENCE", 0.1)
    lock = FolderLock(tmp_path)
    lock.take()
    Path(tmp_path / LOCK).write_text(content)
    assert "another process" in str(FolderLock(tmp_path).take())
    lock.release()


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("years of work")
    (tmp_path / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"):
        FolderLock(tmp_path).take()
    assert (tmp_path / "mine").read_text() == "years of work"
