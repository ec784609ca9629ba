"""One process owns an output folder, and one that cannot be written is refused before anything heavy happens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

import keeltune.cli.train  # before another user cannot read it
from keeltune import recipe
from keeltune.cli import app
from keeltune.runs import claim, output_folder, run
from keeltune.training.trainer import KeelTrainer
from keeltune.utils import files, folder_lock
from keeltune.utils.errors import UserError
from keeltune.utils.folder_lock import LOCK, FolderLock
from tests.faults.test_resume import ROOT
from tests.helpers.command import keeltune
from tests.helpers.interruption import same
from tests.helpers.runs import QUIET, make_data, spec_of

LIGHT = """
import sys
from keeltune.cli.app import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "datasets", "pyarrow", "numpy"} & set(sys.modules)
    assert not heavy, heavy
"""


@pytest.fixture
def spec(tiny, tmp_path):
    make_data(tmp_path)
    spec = spec_of("fine-tuning", tiny("bert"))
    (tmp_path / "recipe.yaml").write_text(json.dumps(spec))
    return spec


def train(spec: dict, folder: Path, **how):
    return run.train(recipe.from_dict(spec, folder), display=QUIET, **how)


def forked(function: Callable[[], object], output: Path) -> tuple[int, str, int]:
    """The exit status of a forked child that calls a function, what it wrote to both streams, and its number."""
    child = os.fork()
    if not child:
        for stream in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), stream)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        try:
            function()
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        except BaseException:
            traceback.print_exc()
        os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, output.read_text(), child


def test_a_second_start_is_refused_at_once_and_changes_nothing(spec, tmp_path):
    """Before anything heavy is imported: `LIGHT` fails where it is."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.yaml").write_text("of the first run")
    lock = FolderLock(tmp_path / "out")
    assert lock.take() is None
    content = (tmp_path / "out" / LOCK).read_text()
    try:
        for options in ([], ["--resume"], ["--overwrite"]):
            second = subprocess.run(
                [sys.executable, "-c", LIGHT, "train", "recipe.yaml", *options],
                cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
            )  # fmt: skip
            assert second.returncode == 2, second.stderr
            owner = json.loads(content)
            for part in (f"process {os.getpid()}", owner["host"], owner["started"], str(tmp_path / "out")):
                assert part in second.stderr
            assert "Traceback" not in second.stderr
            assert "keeltune train recipe.yaml" in second.stderr.splitlines()[-1]
            assert {path.name for path in (tmp_path / "out").iterdir()} == {LOCK, "recipe.yaml"}
            assert (tmp_path / "out" / LOCK).read_text() == content
    finally:
        lock.release()


def test_a_run_beside_a_live_one_takes_nothing_from_it(spec, tmp_path, monkeypatch):
    """Each of the second starts comes in the middle of the first one's training; one folder, seeds and all."""
    whole = train(spec | {"output": "whole"}, tmp_path)
    original, said = KeelTrainer.compute_loss, []
    several = {**spec, "training": {**spec["training"], "seed": [0, 1]}}

    def beside(self, *args, **kwargs):
        if self.state.global_step == 1 and len(said) < 4:
            for values, how in ((spec, {}), (spec, {"resume": True}), (spec, {"overwrite": True}), (several, {})):
                with pytest.raises(UserError, match=f"in use by process {os.getpid()}") as refused:
                    train(values, tmp_path, **how)
                said.append(refused.value)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(KeelTrainer, "compute_loss", beside)
        first = train(spec, tmp_path)
    assert len(said) == 4
    assert same(whole.folder, first.folder)
    assert (whole.folder / "log.jsonl").read_text() == (first.folder / "log.jsonl").read_text()
    assert not (first.folder / LOCK).exists()
    with pytest.raises(UserError, match="a folder that is in use"):  # by a run, which is over
        train(spec, tmp_path)


def test_the_folder_of_seeds_is_one_process_s(spec, tmp_path, monkeypatch):
    original, seen = KeelTrainer.compute_loss, []

    def looking(self, *args, **kwargs):
        seen.append((tmp_path / "out" / LOCK).is_file())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(KeelTrainer, "compute_loss", looking)
    train({**spec, "training": {**spec["training"], "seed": [0, 1]}}, tmp_path)
    assert all(seen) and len(seen) > 2
    assert not list(tmp_path.rglob(LOCK))


def test_a_folder_that_a_killed_run_left_is_taken_over(spec, tmp_path, capsys):
    def killed() -> None:
        FolderLock(tmp_path / "out").take()
        os.kill(os.getpid(), signal.SIGKILL)

    status, _, child = forked(killed, tmp_path / "log")
    assert status == -signal.SIGKILL
    assert (tmp_path / "out" / LOCK).exists()
    done = run.train(recipe.from_dict(spec, tmp_path))
    assert done.result["status"] == "completed"
    assert f"was left by process {child}" in capsys.readouterr().err
    assert not (done.folder / LOCK).exists()


def test_a_refused_start_leaves_no_folder(spec, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": 3, "label": "x"}\n')
    with pytest.raises(UserError):
        train(spec | {"output": "runs/new"}, tmp_path)
    assert not (tmp_path / "runs").exists()


def as_nobody(folder: Path, *arguments: str) -> None:
    """The command as another user runs it; what is imported by now he need not be able to read."""
    b"".decode("utf-8-sig")
    sys.argv = ["keeltune", *arguments]
    os.chdir(folder)
    if os.getuid() == 0:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    app.main()


@pytest.mark.parametrize("part", ["", "checkpoints"])
def test_a_folder_of_another_user_is_refused_before_anything_is_read(spec, part):
    place = Path(tempfile.mkdtemp())  # where everyone can go
    try:
        place.chmod(0o777)
        (place / "recipe.yaml").write_text(json.dumps({**spec, "model": "no-such-model"}))  # which nobody asks for
        (place / "recipe.yaml").chmod(0o644)
        (place / "out" / part).mkdir(parents=True)
        if part:
            (place / "out").chmod(0o777)
        if os.getuid() != 0:  # who is not root becomes nobody else, and may not write to what forbids it
            (place / "out" / part).chmod(0o555)
        start = time.monotonic()
        options = ["--resume"] if part else []
        status, said, _ = forked(lambda: as_nobody(place, "train", "recipe.yaml", *options), place / "log")
        assert status == 2, said
        assert time.monotonic() - start < 30  # on a busy machine; alone it is two seconds
        assert str(place / "out" / part).rstrip("/") in said
        assert "permission" in said and "Traceback" not in said
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize(("place", "name"), [(files, "write_atomically"), (folder_lock, "_write")])
def test_a_full_disk_at_the_very_start_is_no_fault_of_the_folder_s(spec, tmp_path, monkeypatch, capsys, place, name):
    def full(*args) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place, name, full)
    monkeypatch.chdir(tmp_path)
    assert keeltune(monkeypatch, "train", "recipe.yaml") == 5
    said = capsys.readouterr().err
    assert said.splitlines()[-1].endswith("go on with: keeltune train recipe.yaml") and "Traceback" not in said
    assert not list(tmp_path.rglob(LOCK))


@pytest.mark.parametrize("part", ["", "checkpoints", "predictions/before"])
def test_a_disk_that_cannot_be_written_is_refused_with_its_name(spec, tmp_path, monkeypatch, capsys, part):
    folder = tmp_path / "out" / part
    folder.mkdir(parents=True)
    original = files.write_atomically

    def read_only(path: Path, content: bytes) -> None:
        if path.parent == folder:
            raise OSError(30, "Read-only file system", str(path))
        original(path, content)

    monkeypatch.setattr(files, "write_atomically", read_only)
    monkeypatch.chdir(tmp_path)
    assert keeltune(monkeypatch, "train", "recipe.yaml", "--resume") == 2
    said = capsys.readouterr().err
    assert f"{folder} · output" in said.replace("\n", " ") and "read-only file system" in said
    with pytest.raises(UserError, match="ead-only file system"):
        output_folder.refuse_unwritable(tmp_path / "out")


def test_what_a_killed_start_left_is_no_use_of_a_folder_and_is_swept(spec, tmp_path):
    """Stagings are named by their process: the next one writes beside them."""
    out = tmp_path / "out"
    (out / "predictions" / "before").mkdir(parents=True)
    left = [f".staging-12-{'0' * 16}", ".trial-12".ljust(120, "-")]
    for name in left:
        (out / name).write_text("half")
    shutil.rmtree(out / "predictions")
    assert not claim.used(out)
    kept = out / ".staging-of-mine"
    done = train(spec, tmp_path)  # neither --resume nor --overwrite is needed
    for name in [*left, "predictions/" + left[0], "predictions/before/" + left[0]]:
        (out / name).write_text("half")
    for name in (".staging-model", ".trash-model", ".trash-.staging-adapter", "checkpoints/.trash-checkpoint-2"):
        (out / name).mkdir()
        (out / name / "config.json").write_text("half")
    kept.write_text("years of work")
    train(spec, tmp_path, resume=True)
    assert {str(path.relative_to(out)) for path in done.folder.rglob(".*")} == {kept.name, ".progress.json"}
