"""What we take over from transformers' Trainer is there, and does its work, in the oldest and the newest one supported.

Four private methods hand saving and loading to `checkpoints.py`. The newest transformers is the one that the tests are
installed with; the oldest is read from its wheel, which is put before it.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import transformers

from keeltune.training.trainer import KeelTrainer

ROOT = Path(__file__).parents[2]

CHECK = """
import sys, pytest, transformers
from tests.training.test_supported_transformers import require_same_calls
version = sys.argv.pop()
assert transformers.__version__ == version, transformers.__version__
require_same_calls()
tests = ["test_a_killed_run_goes_on_bit_for_bit[7]", "test_a_killed_lora_run_goes_on_bit_for_bit"]
sys.exit(pytest.main(["-q", "--assert=plain", *(f"tests/faults/test_resume.py::{name}" for name in tests)]))
"""


def require_same_calls() -> None:
    """The private methods that we take over are these four, and transformers calls them as we define them."""
    taken = [name for name in vars(KeelTrainer) if name in dir(transformers.Trainer) and not name.startswith("__")]
    private = {name for name in taken if name.startswith("_") and callable(getattr(KeelTrainer, name))}
    expected = {"_save_checkpoint", "_load_from_checkpoint", "_load_optimizer_and_scheduler", "_load_rng_state"}
    assert private == expected, private
    for name in private:
        theirs, ours = (
            list(inspect.signature(getattr(c, name)).parameters) for c in (transformers.Trainer, KeelTrainer)
        )
        assert theirs == ours, (name, theirs, ours)
    source = inspect.getsource(sys.modules["transformers.trainer"])
    given = {"_save_checkpoint": "model, trial"}
    for name in private:
        assert f"self.{name}({given.get(name, 'resume_from_checkpoint')})" in source, name


def oldest() -> str:
    """The lower bound of pyproject.toml."""
    (found,) = re.findall(r'"transformers>=([\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    return found if found.count(".") == 2 else f"{found}.0"


def check(version: str, path: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", CHECK, version], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_newest_transformers_saves_and_goes_on_through_us():
    """That it goes on bit for bit is what `tests/faults/test_resume.py` shows with this very one."""
    require_same_calls()


@pytest.mark.slow  # a wheel of ten megabytes
def test_the_oldest_transformers_saves_and_goes_on_through_us(tmp_path):
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"transformers=={oldest()}"]
    if (done := subprocess.run(download, cwd=tmp_path, capture_output=True, text=True)).returncode:
        pytest.skip(f"no package registry at hand for transformers {oldest()}: {done.stderr[-200:]}")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    check(oldest(), [str(tmp_path / "site")])
