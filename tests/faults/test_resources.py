"""A memory or a disk that is too small ends a run with what was needed, and it goes on as if nothing had been."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from keeltune import recipe
from keeltune.models import saving
from keeltune.recipe.training_fields import Training
from keeltune.runs import disk_estimate, run
from keeltune.tasks.common import batches
from keeltune.tasks.common.example import Example
from keeltune.training import memory_advice
from keeltune.training.step_loss import StepLoss
from keeltune.utils import disk_space, files, manifest, system_faults, tensor_tree
from keeltune.utils.errors import OutOfResources
from tests.helpers.interruption import same
from tests.helpers.runs import QUIET, make_data, spec_of

ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
]


@pytest.fixture
def spec(tiny, tmp_path):
    make_data(tmp_path)
    return spec_in(tiny)


def spec_in(tiny) -> dict:
    given = spec_of("fine-tuning", tiny("bert"))
    given["training"] |= {"save_steps": 1, "epochs": 2}
    given["data"].pop("test")
    return given


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Path:
    """The folder of the run that nothing happened to."""
    folder = make_data(tmp_path_factory.mktemp("whole"))
    return train(spec_in(tiny), folder).folder


def train(spec: dict, folder: Path, **how):
    return run.train(recipe.from_dict(spec, folder), display=QUIET, **how)


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_batch_that_does_not_fit_is_named_with_the_next_smaller_one(spec, tmp_path, monkeypatch, error):
    real, calls = StepLoss.__call__, []

    def full(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > 3:
            raise error
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(StepLoss, "__call__", full)
        with pytest.raises(OutOfResources, match=r"on a batch of 8 rows × \d+ .*batch_size: 4 .*steps: 2, .*--resume"):
            train(spec, tmp_path)
    smaller = {**spec["training"], "batch_size": 4, "gradient_accumulation_steps": 2}
    assert train(spec | {"training": smaller}, tmp_path, resume=True).result["status"] == "completed"


@pytest.mark.parametrize(("size", "parts", "said"), [(32, 1, "size: 16 and training.gradient_accumulation_steps: 2"),
                                                     (3, 2, "size: 1 and training.gradient_accumulation_steps: 6"),
                                                     (9, 1, "size: 3 and training.gradient_accumulation_steps: 3"),
                                                     (1, 8, "lower max_length")])  # fmt: skip
def test_the_next_smaller_setting_has_the_same_steps(size, parts, said):
    assert said in memory_advice.smaller_batch(Training(batch_size=size, gradient_accumulation_steps=parts))


def test_tokens_are_counted_down_too():
    assert "tokens_per_batch (4096 now)" in memory_advice.smaller_batch(Training(tokens_per_batch=4096))


@pytest.mark.parametrize("fits", [5, 1, 0])
def test_a_batch_that_is_scored_is_halved_until_it_fits(fits):
    examples = [Example({}, [0], [1.0], str(n), length=n) for n in range(13)]

    def answer(part):
        if len(part) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [example.key for example in part]

    if fits:
        assert batches.in_batches(examples, answer, batch_size=8) == [example.key for example in examples]
    else:
        with pytest.raises(torch.OutOfMemoryError) as raised:
            batches.in_batches(examples, answer, batch_size=8)
        assert raised.value.__notes__ == ["on one row of length 12"]


# A disk


def test_a_run_that_the_disk_cannot_hold_is_refused_before_its_start(spec, tmp_path, monkeypatch):
    free = type("Free", (), {"free": 100_000})()
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: free)
    with pytest.raises(
        OutOfResources, match=r"the run \(checkpoints \d+.* needs \d+ bytes in .*out and the disk has 100000 free"
    ):
        train(spec, tmp_path)
    assert not list((tmp_path / "out" / "checkpoints").glob("checkpoint-*"))


def test_the_estimate_is_what_a_run_writes(spec, tmp_path, monkeypatch):
    told: list[dict[str, int]] = []
    real = disk_estimate.bytes_of_run
    monkeypatch.setattr(disk_estimate, "bytes_of_run", lambda *a, **k: told.append(real(*a, **k)) or told[-1])
    folder = train({**spec, "training": {**spec["training"], "keep_checkpoints": True}}, tmp_path).folder
    kept = [path for path in (folder / "checkpoints").glob("checkpoint-*") if path.is_dir()]
    assert len(kept) == 2  # and a third one while it was staged
    weights = [path / "rank-0.safetensors" for path in kept]
    assert told[0]["checkpoints"] == pytest.approx(3 * weights[0].stat().st_size, rel=0.1)
    assert told[0]["model"] == pytest.approx((folder / "model" / "model.safetensors").stat().st_size, rel=0.1)
    assert sum(told[0].values()) > disk_space.bytes_in(folder)


WRITERS = {"log": "log.jsonl", "page": "report.html", "result": "result.json", "predictions": "validation.jsonl"}


def _failing_writes() -> list:
    """Each file, and of a device that fails one that is written whole and the one that is appended to."""
    pairs = [(what, number) for number in (errno.ENOSPC, errno.EIO) for what in WRITERS]
    wide = [(what, errno.EIO) for what in ("page", "predictions")]
    return [pytest.param(*pair, marks=pytest.mark.wide if pair in wide else []) for pair in pairs]


@pytest.mark.parametrize(("what", "number"), _failing_writes())
def test_a_disk_that_fills_up_names_the_file_and_the_run_goes_on(spec, tmp_path, monkeypatch, whole, what, number):
    """Every write of one of the run's files fails; when there is room again the run ends as if nothing had been."""
    monkeypatch.setattr(files, "RETRY_AFTER", 0.0)
    real_write, real_open, fail = files._write, Path.open, WRITERS[what]

    def full(path, content):
        if path.name == fail and path.parent.name != "before":
            raise OSError(number, os.strerror(number))
        return real_write(path, content)

    def opened(self, mode="r", *args, **kwargs):
        if self.name == fail and "a" in mode:
            raise OSError(number, os.strerror(number), str(self))
        return real_open(self, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write", full)
        patch.setattr(Path, "open", opened)
        with pytest.raises(OutOfResources, match=rf"{fail} takes no more: .*bytes.* free.*--resume"):
            train(spec, tmp_path)
    finished = train(spec, tmp_path, resume=True)
    assert same(finished.folder, whole)


def test_a_device_that_fails_once_is_written_to_again(spec, tmp_path, monkeypatch, whole):
    """A checkpoint, the best weights and the model, each at its second try."""
    monkeypatch.setattr(system_faults, "RETRY_AFTER", 0.0)
    real, failed, tries = tensor_tree.save, set(), []

    def failing(state, file):
        tries.append(file.name)
        if file.name not in failed:
            failed.add(file.name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(state, file)

    def stumbling(folder, *args, **kwargs):
        if folder.name == ".staging-model" and folder.name not in failed:
            failed.add(folder.name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return seal(folder, *args, **kwargs)

    seal = manifest.seal_folder
    with monkeypatch.context() as patch:
        patch.setattr(tensor_tree, "save", failing)
        patch.setattr(saving.manifest, "seal_folder", stumbling)
        finished = train(spec, tmp_path)
    assert {name.split("-")[0] for name in failed} >= {"rank", "best"}
    assert ".staging-model" in failed
    assert len(tries) > len(set(tries))
    assert same(finished.folder, whole)


def test_weights_that_do_not_fit_leave_the_checkpoint_before(spec, tmp_path, monkeypatch):
    """As safetensors says it, which writes by itself, in Rust. With a third epoch the best weights come later than the
    fault, and are those of a run that went on."""
    spec["training"] |= {"epochs": 3}
    real, calls = tensor_tree.save, []

    def full(state, file):
        calls.append(1)
        if len(calls) > 4:
            raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")
        real(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(tensor_tree, "save", full)
        with pytest.raises(OutOfResources, match="checkpoints takes no more: a file is too large"):
            train(spec, tmp_path)
    assert list((tmp_path / "out" / "checkpoints").glob("checkpoint-*"))
    finished = train(spec, tmp_path, resume=True)
    assert same(finished.folder, train(spec | {"output": "whole"}, tmp_path).folder)
