"""Runs that fill one folder with the same take turns: a cache, a teacher's texts."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from keeltune import recipe
from keeltune.cli.cache import precompute
from keeltune.runs import run
from keeltune.training import build, reference_loading, target_generation
from keeltune.training.cache import capture
from keeltune.training.preparation import prepare
from keeltune.utils.errors import UserError
from keeltune.utils.folder_lock import LOCK, FolderLock
from tests.helpers import processes
from tests.helpers.runs import QUIET, make_data, spec_of
from tests.helpers.writers import rows, spec


def wait_for(file: Path, text: str) -> None:
    until = time.monotonic() + 60
    while text not in file.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    assert text in file.read_text()


def test_a_run_that_wants_the_cache_that_another_fills_waits_for_it(tiny, tmp_path, monkeypatch):
    make_data(tmp_path)
    reference = {"model": str(tiny("bert", seed=5)), "from": "cached", "cache": "kept"}
    values = spec_of("distillation", tiny("bert"), reference=reference)
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    original, beside = capture.shard_of, []

    def filling(*args):
        if not beside:
            other = processes.start(
                processes.command, "train", str(tmp_path / "recipe.yaml"), "output=other", output=tmp_path / "log"
            )
            beside.append(other)
            wait_for(other.file, f"is at work in {tmp_path / 'kept'}")
            with pytest.raises(
                UserError, match=r"(?s)reference\.cache.*in use by process"
            ):  # nor does one take it away
                precompute(recipe.from_dict(values, tmp_path), overwrite=True, display=QUIET)
        return original(*args)

    monkeypatch.setattr(capture, "shard_of", filling)
    first = run.train(recipe.from_dict(values, tmp_path), display=QUIET)
    (other,) = beside
    assert other.wait() == 0, other.text
    assert "the reference answers" not in other.text
    second = json.loads((tmp_path / "other" / "result.json").read_text())
    assert second["reference"]["cache"]["digest"] == first.result["reference"]["cache"]["digest"]
    assert {path.name for path in (tmp_path / "kept").iterdir()} >= {"manifest.json", "shard-00000.safetensors"}
    assert not list((tmp_path / "kept").glob("head.json")) and not (tmp_path / "kept" / LOCK).exists()


def test_texts_that_another_run_has_written_since_are_not_written_again(tmp_path, monkeypatch):
    values = spec(tmp_path, "translation", "marian", "distillation")
    values |= {
        "generation": {"targets": "reference", "max_new_tokens": 8},
        "objective": {"weight": 0.0},
        "output": "out",
    }
    material = prepare.prepare(recipe.from_dict(values, tmp_path))
    written, folders = [], []
    original, model = target_generation.TeacherTargets.write, reference_loading.load_models

    def writing(self, *args):
        before = len(self.texts)
        original(self, *args)
        written.append(len(self.texts) - before)
        folders.append(self.file.parent)

    def another_first(*args):
        """It comes in between: after this run has seen that there is nothing, before it writes."""
        monkeypatch.setattr(reference_loading, "load_models", model)
        build.build(prepare.prepare(recipe.from_dict({**values, "output": "first"}, tmp_path)))
        return model(*args)

    monkeypatch.setattr(target_generation.TeacherTargets, "write", writing)
    monkeypatch.setattr(reference_loading, "load_models", another_first)
    build.build(material)
    assert written == [len(rows()), 0]
    lock = FolderLock(folders[0])
    assert lock.take() is None
    lock.release()
