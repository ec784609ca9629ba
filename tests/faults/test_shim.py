"""What the other tests of faults lean on: every way in which files change is counted, and what is asked for happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults import power_cut

ROOT = Path(__file__).parents[2]
HEAD = """
import os, shutil, sys, time
from pathlib import Path
from tests.faults import shim
here = Path(sys.argv[1])
"""


@pytest.fixture
def with_shim(faults_library, tmp_path):
    """`with_shim(code)`: runs Python code, `here` being a new folder; its exit status and stdout."""

    def run(code: str, **environment: str) -> tuple[int, str]:
        (tmp_path / "here").mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", HEAD + code, tmp_path / "here"], capture_output=True, text=True, cwd=ROOT,
            env={**os.environ, "LD_PRELOAD": str(faults_library), **environment},
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout

    return run


def test_every_call_that_changes_a_file_is_counted(with_shim, tmp_path):
    status, said = with_shim("""
(here / "elsewhere").mkdir()
import numpy as np
from safetensors.numpy import save_file
shim.arm(here / "elsewhere", "list", record=here / "log")
os.chdir(here / "elsewhere")
Path("a").write_text("text")
os.mkdir("d"); os.replace("a", "d/b"); os.link("d/b", "d/c"); shutil.copyfile("d/b", "d/e")
os.truncate("d/b", 1)
folder = os.open("d", os.O_RDONLY); os.fsync(folder)
os.unlink("c", dir_fd=folder); os.unlink("d/e")
save_file({"a": np.ones(3)}, "t.safetensors")
Path(here / "beside").write_text("text"); Path("d/b").read_text()
shutil.rmtree("d")
print(shim.disarm())
""")
    assert status == 0
    lines = [line.split() for line in (tmp_path / "here" / "log").read_text().splitlines()]
    assert [int(number) for number, *_ in lines] == list(range(1, int(said) + 1))
    operations = [operation for _, operation, _ in lines]
    assert operations[:5] == ["open", "write", "mkdir", "rename", "link"]
    rust = [operation for _, operation, path in lines if "safetensors" in path or "/.tmp" in path]
    assert rust[0] == "open" and rust[-1] == "rename" and "write" in rust  # its renames go past libc
    assert set(operations) >= {"truncate", "fsync", "unlink", "unlinkat"}
    assert {"rmdir", "unlinkat"} & set(operations[-2:])
    assert not [path for *_, path in lines if path.endswith("beside")]


def test_a_write_is_torn_in_its_middle(with_shim, tmp_path):
    status, _ = with_shim('shim.arm(here, "torn", at=2)\n(here / "a").write_text("12345678")')
    assert status == -9
    assert (tmp_path / "here" / "a").read_text() == "1234"


@pytest.mark.parametrize(("sticky", "failed"), [(False, ["b"]), (True, ["b", "c"])])
@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EFBIG"])
def test_a_call_fails_and_changes_nothing(with_shim, tmp_path, name, sticky, failed):
    status, said = with_shim(f"""
import errno
shim.arm(here, {name.lower()!r}, at=2, sticky={sticky})
for name in "abc":
    try:
        os.mkdir(here / name)
    except OSError as error:
        assert error.errno == errno.{name}
        print(name)
""")
    assert status == 0
    assert said.split() == failed
    assert {path.name for path in (tmp_path / "here").iterdir()} == {*"abc"} - {*failed}


def test_what_a_kill_leaves_is_copied_at_every_call(with_shim, tmp_path):
    (tmp_path / "copies").mkdir()
    with_shim(f'shim.arm(here, "copy", record={str(tmp_path / "copies")!r})\n(here / "a").write_text("1")')
    left = [sorted(path.name for path in copy.iterdir()) for copy in sorted((tmp_path / "copies").iterdir())]
    assert left == [[], ["a"]]


def test_a_clock_is_shifted_and_durations_are_not(with_shim):
    code = """
import json
before, steady = time.time(), time.monotonic()
shim.shift_clock(-3600)
print(json.dumps([time.time() - before, time.monotonic() - steady]))
"""
    moved, steady = json.loads(with_shim(code)[1])
    assert moved == pytest.approx(-3600, abs=5)
    assert 0 <= steady < 5
    assert int(with_shim("print(int(time.time()))", CLOCK_OFFSET="-1000000000")[1]) < time.time() - 9e8


def test_a_power_cut_leaves_what_was_flushed(with_shim, tmp_path):
    """Contents are safe when their file was flushed last, names when their folder was."""
    (tmp_path / "record").mkdir()
    with_shim(f"""
shim.arm(here, "cut", record={str(tmp_path / "record")!r})
def flush(path):
    handle = os.open(path, os.O_RDONLY); os.fsync(handle); os.close(handle)
(here / "a").write_text("one"); flush(here / "a")
(here / "a").write_text("two, and longer"); (here / "b").write_text("b"); flush(here)
os.rename(here / "a", here / "c"); flush(here / "c")
flush(here)
""")
    left = {
        cut: {path.name: path.read_text() for path in (tmp_path / "cut").iterdir()}
        for cut in power_cut.cuts(tmp_path / "record", tmp_path / "cut")
    }
    assert left == {
        (0, "nothing"): {}, (0, "names"): {"a": ""},
        (1, "nothing"): {}, (1, "names"): {"a": "one", "b": ""},
        (2, "nothing"): {"a": "one", "b": ""}, (2, "names"): {"c": "one", "b": ""},
        (3, "nothing"): {"a": "two, and longer", "b": ""}, (3, "names"): {"c": "two, and longer", "b": ""},
        (4, "nothing"): {"c": "two, and longer", "b": ""}, (4, "names"): {"c": "two, and longer", "b": ""},
    }  # fmt: skip


def test_a_torn_write_is_copied_and_goes_on(with_shim, tmp_path):
    (tmp_path / "copies").mkdir()
    with_shim(f'shim.arm(here, "halves", record={str(tmp_path / "copies")!r})\n(here / "a").write_text("12345678")')
    (copy,) = (tmp_path / "copies").iterdir()
    assert (copy / "a").read_text() == "1234"
    assert (tmp_path / "here" / "a").read_text() == "12345678"
