"""A finished run is finished where it is whole: what is lost of it is made again, or it says that it cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import keeltune as kt
from keeltune import recipe
from keeltune.runs import final_stage, run, run_folder
from keeltune.runs.run_folder import Run
from keeltune.training import checkpoints
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.errors import StateRefused
from keeltune.utils.progress import Display
from tests.faults.test_signals import before_calling, equal, make_data_in, train
from tests.helpers.runs import lines, spec_of


@pytest.fixture(scope="module")
def spec(tiny) -> dict:
    spec = spec_of("cross-domain", tiny("bert"))
    return {**spec, "training": {**spec["training"], "keep_checkpoints": True}}


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


# ------------------------------------------------------------------------------------------- its checkpoints are gone


@pytest.fixture
def spent(spec) -> dict:
    """The recipe whose checkpoints go with its end, as they do by default."""
    return {**spec, "training": {n: v for n, v in spec["training"].items() if n != "keep_checkpoints"}}


def names(out: Path) -> set[str]:
    return {path.name for path in (out / checkpoints.FOLDER).iterdir()}


class Said(Display):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.text = ""

    def say(self, text: str) -> None:
        self.text += f"{text}\n"


def go_on(spec: dict, folder: Path, **how) -> tuple[Run, str]:
    said = Said()
    return run.train(recipe.from_dict({**spec, "output": "out"}, folder), display=said, resume=True, **how), said.text


def test_a_finished_run_holds_its_model_and_no_checkpoint(spent, whole, tmp_path, monkeypatch):
    make_data_in(tmp_path / "data")
    done = train(spent, tmp_path / "data", "out")
    assert names(done.folder) == {"run.json"}
    assert names(whole.folder) > {"run.json", "checkpoint-3"}
    assert equal(whole.folder, done.folder)
    assert {finding.state for finding in kt.verify(done.folder)} == {"same"}
    monkeypatch.setattr(KeelTrainer, "train", lambda *args, **kwargs: pytest.fail("trained"))
    again, said = go_on(spent, tmp_path / "data")
    assert again.result == done.result
    assert said.splitlines()[-1].endswith("holds a finished run; nothing is left to do")
    assert "checkpoint" not in said


def test_what_an_earlier_version_kept_goes_when_the_run_is_found_whole(spent, copy):
    done, _ = go_on(spent, copy)
    assert names(done.folder) == {"run.json"}


def test_a_model_that_is_not_what_was_written_keeps_its_checkpoints(spent, whole, tmp_path, monkeypatch):
    """A disk that loses a bit at the very end: the run says so, and is made whole from what it did not take away."""
    make_data_in(tmp_path / "data")
    weights, said = tmp_path / "data" / "out" / "model" / "model.safetensors", Said()
    with monkeypatch.context() as patch:
        before_calling(patch, final_stage, "drop_checkpoints", lambda: flip(weights))
        run.train(recipe.from_dict({**spent, "output": "out"}, tmp_path / "data"), display=said)
    assert "the checkpoints of" in said.text and "model/model.safetensors" in said.text
    assert names(weights.parents[1]) == names(whole.folder)
    again, _ = go_on(spent, tmp_path / "data")
    assert equal(whole.folder, again.folder)
    assert names(again.folder) == {"run.json"}


def test_a_result_that_was_changed_keeps_the_checkpoints(spent, copy):
    file = copy / "out" / "result.json"
    result = json.loads(file.read_text())
    result["metrics"]["test"]["accuracy"] = 1.5
    file.write_text(json.dumps(result))
    before = names(copy / "out")
    _, said = go_on(spent, copy)
    assert names(copy / "out") == before
    assert "result.json is not what was written" in said


@pytest.mark.parametrize("lost", ["model/model.safetensors", "predictions/test.jsonl"])
def test_without_checkpoints_each_verb_says_what_makes_it_again(spent, copy, lost):
    out = go_on(spent, copy)[0].folder
    (out / lost).unlink()
    (finding,) = [finding for finding in kt.verify(out) if not finding.is_sound]
    assert (finding.name, finding.state) == (lost, "missing")
    assert f"{out / 'recipe.yaml'} --overwrite makes the whole run again" in finding.fix
    with pytest.raises(StateRefused, match=r"--overwrite, which ends as it did \(training.keep_checkpoints: true"):
        go_on(spent, copy)


def longer(spec: dict, epochs: int) -> dict:
    return {**spec, "training": {**spec["training"], "epochs": epochs}}


def test_a_finished_run_is_trained_on_where_it_has_its_checkpoints(spec, whole, copy):
    steps = whole.result["training"]["steps"]
    with pytest.raises(StateRefused, match=r"--allow-change training\.epochs"):
        go_on(longer(spec, 2), copy)
    done, said = go_on(longer(spec, 2), copy, allow_change=["training.epochs"])
    assert f"holds a finished run, which is trained on to step {2 * steps}" in said
    assert f"going on from checkpoint-{steps}" in said
    assert done.result["training"]["steps"] == 2 * steps
    assert {finding.state for finding in kt.verify(done.folder)} == {"same"}
    assert go_on(longer(spec, 2), copy)[0].result == done.result


def test_without_them_it_says_what_is_possible(spent, whole, copy):
    before = (go_on(spent, copy)[0].folder / "result.json").read_text()
    with pytest.raises(StateRefused, match="6 steps for a finished run of 3, without its checkpoints") as refused:
        go_on(longer(spent, 2), copy, allow_change=["training.epochs"])
    assert f"model: {copy / 'out' / 'model'}" in str(refused.value)
    assert "training.keep_checkpoints: true" in str(refused.value)
    assert (copy / "out" / "result.json").read_text() == before


def test_to_keep_checkpoints_is_no_other_run(spent, spec, copy):
    assert go_on(spec, copy)[0].folder == go_on(spent, copy)[0].folder
