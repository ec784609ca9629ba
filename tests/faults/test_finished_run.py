"""A finished run is finished where it is whole: what is lost of it is made again, or it says that it cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from keeltune.runs import run_folder
from keeltune.runs.run_folder import Run
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.errors import StateRefused
from tests.faults.test_signals import equal, make_data_in, train
from tests.helpers.runs import lines, spec_of


@pytest.fixture(scope="module")
def spec(tiny) -> dict:
    return spec_of("cross-domain", tiny("bert"))


@pytest.fixture(scope="module")
def whole(spec, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("finished") / "data"
    make_data_in(folder)
    return train(spec, folder, "out")


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """A copy of the project with its finished run, whose folder is `out`."""
    return Path(shutil.copytree(whole.folder.parent, tmp_path / "project"))


def cut(file: Path, by: int) -> None:
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - by)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose_as_of_an_earlier_version(out: Path) -> None:
    """Whose results have no digests."""
    result = json.loads((out / "result.json").read_text())
    (out / "result.json").write_text(json.dumps({**result, "digests": None}))
    shutil.rmtree(out / "model")


LOSSES = {
    "the model": lambda out: shutil.rmtree(out / "model"),
    "the end of its weights": lambda out: cut(out / "model" / "model.safetensors", 1),
    "a bit of its weights": lambda out: flip(out / "model" / "model.safetensors"),
    "the model of an earlier version": lose_as_of_an_earlier_version,
    "predictions": lambda out: (out / "predictions" / "test.jsonl").unlink(),
    "the last prediction": lambda out: cut(out / "predictions" / "before" / "test.jsonl", 40),
}


@pytest.mark.parametrize("lost", LOSSES)
def test_what_is_lost_is_made_again(spec, whole, copy, lost):
    LOSSES[lost](copy / "out")
    again = train(spec, copy, "out", resume=True)
    assert equal(whole.folder, again.folder)
    assert len(lines(again.folder / "looks.jsonl")) == 1


def test_without_a_checkpoint_nothing_takes_the_place_of_a_result(spec, copy):
    shutil.rmtree(copy / "out" / "model")
    shutil.rmtree(copy / "out" / "checkpoints")
    result = (copy / "out" / "result.json").read_text()
    with pytest.raises(StateRefused, match="model is missing, and no checkpoint to make it from"):
        train(spec, copy, "out", resume=True)
    assert (copy / "out" / "result.json").read_text() == result
    assert not (copy / "out" / "model").exists()


@pytest.mark.parametrize("page", ["lost", "cut", "of another result"])
def test_a_page_is_written_again_from_the_result_alone(spec, whole, copy, monkeypatch, page):
    monkeypatch.setattr(KeelTrainer, "train", lambda *args, **kwargs: pytest.fail("trained"))
    file, stamp = copy / "out" / "report.html", (copy / "out" / "result.json").stat().st_mtime_ns
    text = file.read_text()
    if page == "lost":
        file.unlink()
    else:
        digest = digest_in(text)
        file.write_text(text[:-20] if page == "cut" else text.replace(digest, "0" * 64))
    shutil.rmtree(copy / "out" / "checkpoints")
    train(spec, copy, "out", resume=True)
    assert file.read_text() == text
    assert (copy / "out" / "result.json").stat().st_mtime_ns == stamp
    written = file.stat().st_mtime_ns
    train(spec, copy, "out", resume=True)
    assert file.stat().st_mtime_ns == written


def digest_in(page: str) -> str:
    return page.split('name="keeltune-result" content="')[1][:64]


def test_the_page_of_several_seeds_and_a_lost_model_of_one(spec, tmp_path):
    """A kill after the last seed, before the pool: the seeds are whole, and one of them then loses its model."""
    make_data_in(tmp_path / "data")
    several = {**spec, "training": {**spec["training"], "seed": [0, 1]}}
    done = train(several, tmp_path / "data", "out")
    copied = Path(shutil.copytree(done.folder.parent, tmp_path / "copy")) / "out"
    (copied / "result.json").unlink()
    (copied / "report.html").unlink()
    shutil.rmtree(copied / "seed-1" / "model")
    again = train(several, tmp_path / "copy", "out", resume=True)
    for seed in ("seed-0", "seed-1"):
        assert equal(done.folder / seed, again.folder / seed)
    assert run_folder.finished(again.folder).result["metrics"] == done.result["metrics"]
    assert (again.folder / "report.html").is_file()
    assert len(lines(again.folder / "looks.jsonl")) == len(lines(done.folder / "looks.jsonl")) == 1
