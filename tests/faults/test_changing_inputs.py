"""What a run reads changes while it goes: nothing else is ever trained on, and the run says what changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import keeltune as kt
from keeltune import recipe
from keeltune.data.media import ArrayCache
from keeltune.runs.inputs import Inputs
from keeltune.runs.training_log import Watcher
from keeltune.training.preparation import prepare
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.errors import StateRefused
from keeltune.utils.progress import Display
from tests.helpers import families
from tests.helpers.runs import make_data, spec_of, train

QUIET = Display(quiet=True)


def at_step(monkeypatch, step: int, change) -> list[int]:
    """Calls `change` at the end of an optimizer step; a growing list: the steps that were made."""
    steps, original = [], Watcher.on_step_end

    def on_step_end(self, args, state, control, **kwargs) -> None:
        original(self, args, state, control, **kwargs)
        steps.append(state.global_step)
        if state.global_step == step:
            change()

    monkeypatch.setattr(Watcher, "on_step_end", on_step_end)
    return steps


@pytest.mark.parametrize(
    ("task", "architecture", "files"),
    [("image-captioning", "vit gpt2", "pictures/*.png"), ("speech-recognition", "wav2vec2", "audio/*.wav")],
)
def test_a_replaced_picture_or_recording_is_never_trained_on(tmp_path, monkeypatch, task, architecture, files):
    """Each of them by another one that is as sound, so that nothing but its content tells."""
    values = families.spec(tmp_path, task, architecture, "fine-tuning") | {"output": "out"}
    del values["data"]["test"]
    monkeypatch.setattr(ArrayCache, "keep", lambda self, digest, arrays: None)  # as where there are too many

    def exchange() -> None:
        paths = sorted(tmp_path.glob(files))
        contents = [path.read_bytes() for path in paths]
        for path, content in zip(paths, [*contents[1:], contents[0]], strict=True):
            path.write_bytes(content)

    losses = []
    original = KeelTrainer.compute_loss
    monkeypatch.setattr(
        KeelTrainer, "compute_loss", lambda self, *args, **named: (losses.append(1), original(self, *args, **named))[1]
    )
    steps = at_step(monkeypatch, 2, exchange)
    with pytest.raises(StateRefused) as refused:
        kt.train(recipe.from_dict(values, tmp_path), display=QUIET)
    (problem,) = refused.value.problems
    assert Path(problem.where.rpartition(":")[0]).name == "rows.jsonl"
    assert "replaced since its row was read" in problem.found
    assert Path(problem.found.split(",")[0]).suffix in (".png", ".wav")
    assert steps == [1, 2]
    assert len(losses) == 4  # two micro-batches each


def test_a_data_worker_says_which_picture_was_replaced(tmp_path, monkeypatch):
    """What a worker's process finds is the run's own error, with its row and its status."""
    values = families.spec(tmp_path, "image-captioning", "vit gpt2", "fine-tuning") | {"output": "out"}
    values["training"] |= {"dataloader_num_workers": 1, "max_steps": 12}
    del values["data"]["test"]
    monkeypatch.setattr(ArrayCache, "keep", lambda self, digest, arrays: None)
    pictures = sorted((tmp_path / "pictures").iterdir())
    at_step(monkeypatch, 2, lambda: [shutil.copy(pictures[0], other) for other in pictures[1:]])
    with pytest.raises(StateRefused, match="replaced since its row was read") as refused:
        kt.train(recipe.from_dict(values, tmp_path), display=QUIET)
    assert Path(refused.value.problems[0].where.rpartition(":")[0]).name == "rows.jsonl"


def append(file: Path) -> None:
    with file.open("a") as stream:
        stream.write("\n")


def rewrite(file: Path) -> None:
    """As many bytes, and its time set back: only the time of its entry tells."""
    before, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def exchange(file: Path) -> None:
    """Another file takes its name."""
    other = file.with_name("other")
    rewrite(Path(shutil.copy(file, other)))
    other.replace(file)


@pytest.fixture
def spec(tiny, tmp_path) -> dict:
    """Two epochs of three steps, on rows of four files, near a teacher."""
    make_data(tmp_path)
    for name in ("student", "teacher"):
        shutil.copytree(tiny("bert"), tmp_path / name)
    spec = spec_of("distillation", Path("student"), reference={"model": "teacher", "from": "online"})
    spec["data"] |= {"unlabeled": "pool.jsonl"}
    spec["training"] |= {"epochs": 2}
    return spec


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("train.jsonl", append, "data.train"),
        ("validation.jsonl", rewrite, "data.validation"),
        ("test.jsonl", exchange, "data.test"),
        ("pool.jsonl", Path.unlink, "data.unlabeled"),
        ("teacher/model.safetensors", rewrite, "reference"),
        ("student/tokenizer.json", append, "model"),
    ],
)
def test_a_file_that_changes_ends_the_run_at_the_epochs_end(tmp_path, spec, monkeypatch, name, change, field):
    steps = at_step(monkeypatch, 2, lambda: change(tmp_path / name))
    with pytest.raises(StateRefused) as refused:
        train(spec, tmp_path)
    assert steps == [1, 2, 3]
    (problem,) = refused.value.problems
    assert (Path(problem.where), problem.field) == (tmp_path / name, field)
    assert ("not there any more" if change is Path.unlink else "read") in problem.found
    assert "--resume" in problem.fix
    assert "--overwrite" in problem.fix


def test_a_file_that_only_looks_changed_ends_nothing(tmp_path, spec, monkeypatch):
    def touch() -> None:
        for name in ("train.jsonl", "test.jsonl"):
            content = (tmp_path / name).read_bytes()
            (tmp_path / name).unlink()
            (tmp_path / name).write_bytes(content)

    at_step(monkeypatch, 2, touch)
    assert train(spec, tmp_path).result["status"] == "completed"


def test_a_run_goes_on_when_the_file_is_put_back(tmp_path, spec, monkeypatch):
    content = (tmp_path / "train.jsonl").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(StateRefused):
        at_step(patch, 4, lambda: append(tmp_path / "train.jsonl"))
        train(spec, tmp_path)
    (tmp_path / "train.jsonl").write_bytes(content)
    again = kt.train(recipe.from_dict(spec, tmp_path), resume=True, display=QUIET)
    whole = train(spec, tmp_path, output="whole")
    assert again.result["metrics"] == whole.result["metrics"]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, spec, monkeypatch):
    original = prepare.prepare

    def prepared(*args, **kwargs):
        material = original(*args, **kwargs)
        rewrite(tmp_path / "test.jsonl")
        return material

    monkeypatch.setattr(prepare, "prepare", prepared)
    with pytest.raises(StateRefused, match="changed while it was read") as refused:
        train(spec, tmp_path)
    assert refused.value.problems[0].field == "data.test"


def test_an_unchanged_file_is_not_read_again(tmp_path, spec, monkeypatch):
    """A stat a file and evaluation, whatever its size."""
    loaded = recipe.from_dict(spec, tmp_path)
    inputs = Inputs.of(loaded)
    inputs.note(prepare.prepare(loaded))
    monkeypatch.setattr("keeltune.runs.inputs.file_digest", lambda file: pytest.fail(f"{file} was read"))
    inputs.refuse_changes()
    listed = inputs.listed(tmp_path / "out")
    assert [entry["file"] for entry in listed["data.train"]] == ["../train.jsonl"]
    assert {"data.train", "data.validation", "data.test", "data.unlabeled", "model", "reference"} == set(listed)
