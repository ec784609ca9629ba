"""Signals over the whole of a training: exit 75 with what is known so far, and an end as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from keeltune import recipe
from keeltune.evaluation import forgetting_report, split_scores, teacher_report
from keeltune.models import saving
from keeltune.reports import model_card, run_page
from keeltune.runs import final_stage, result, run
from keeltune.runs.run_folder import Run, finished
from keeltune.training import build, reference_loading
from keeltune.training.preparation import prepare
from keeltune.training.trainer import KeelTrainer
from keeltune.utils import distributed, stop_signals
from keeltune.utils.errors import Stopped, UserError
from keeltune.utils.progress import Display
from tests.helpers import processes
from tests.helpers.command import keeltune
from tests.helpers.interruption import Killed, copy_at, same
from tests.helpers.runs import QUIET, make_data, spec_of

TIMES = {"seconds", "examples_per_second", "tokens_per_second", "predictions_per_second", "finished",
         "peak_memory_bytes", "recipe.yaml", "result", "file"}  # fmt: skip

PHASES: dict[str, tuple[Any, str]] = {
    "the data are read": (prepare, "prepare"),
    "the models are loaded": (build, "build"),
    "the teacher is loaded": (reference_loading, "load_models"),
    "the start is scored": (split_scores, "before"),
    "the teacher is scored": (teacher_report, "teacher_report"),
    "the end is scored": (result, "completed"),
    "the model is saved": (saving, "save"),
    "the analyses are made": (forgetting_report, "forgetting"),
    "the card is written": (model_card, "model_card"),
    "the page is written": (run_page, "page"),
    "the result is written": (final_stage, "write_json"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("signals"))


@pytest.fixture(scope="module")
def spec(tiny) -> dict:
    return spec_of("distillation", tiny("bert"), reference=str(tiny("bert", seed=5)))


@pytest.fixture(scope="module")
def whole(spec, folder) -> Run:
    return train(spec, folder, "whole")


def train(spec: dict, folder: Path, output: str, display: Display = QUIET, **how) -> Run:
    return run.train(recipe.from_dict({**spec, "output": output}, folder), display=display, **how)


def until_said(capfd: pytest.CaptureFixture[str], seconds: float = 10.0) -> str:
    """What has come to stderr as soon as it says "stopping"."""
    said, ends = "", time.monotonic() + seconds
    while "stopping" not in said and time.monotonic() < ends:
        said += capfd.readouterr().err
        time.sleep(0.01)
    return said


def timeless(value: Any) -> Any:
    """A result without times, where its files lie, and the digests of what holds either."""
    if isinstance(value, dict):
        return {name: timeless(inner) for name, inner in value.items() if name not in TIMES}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def equal(one: Path, other: Path) -> bool:
    """Whether two runs ended alike: weights, log, predictions, card and result, but for times."""
    files = ["log.jsonl", "model/README.md"]
    files += [str(path.relative_to(one)) for path in (one / "predictions").rglob("*.jsonl")]
    results = [timeless(json.loads((folder / "result.json").read_text())) for folder in (one, other)]
    texts = [[(folder / file).read_text() for file in files] for folder in (one, other)]
    return same(one, other) and texts[0] == texts[1] and results[0] == results[1]


def before_calling(patch, place: Any, name: str, do: Callable[[], None]) -> None:
    """Has something done before a function is called, once."""
    original, left = getattr(place, name), [do]

    def calling(*args, **kwargs):
        if left:
            left.pop()()
        return original(*args, **kwargs)

    patch.setattr(place, name, calling)


def test_a_signal_in_any_phase_stops_and_nothing_is_lost(spec, folder, whole, monkeypatch):
    """One run, stopped in each of its phases in turn, by each of the signals in turn."""
    signals = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    for number, (phase, (place, name)) in enumerate(PHASES.items()):
        sent = signals[number % 3]
        with monkeypatch.context() as patch:
            before_calling(patch, place, name, lambda sent=sent: os.kill(os.getpid(), sent))
            with pytest.raises(Stopped, match=sent.name) as stopped:
                train(spec, folder, "out", resume=number > 0)
        (note,) = stopped.value.__notes__
        assert "the same call with resume=True" in note, phase
        assert ("nothing of a run is on disk" in note) == (number < 5), f"{phase}: {note}"
        known = json.loads((folder / "out" / "result.json").read_text())
        assert known["status"] == "stopped", phase
        assert (known["data"] is None) == (number < 1), phase
        assert (known["metrics"]["before"]["test"] is None) == (number < 5), phase
    assert equal(whole.folder, train(spec, folder, "out", resume=True).folder)
    assert len((folder / "out" / "looks.jsonl").read_text().splitlines()) == 1


FINAL = {name: PHASES[name] for name in [*PHASES][5:]} | {
    "the result is written, after the page": (final_stage, "write_json"),
    "the count is written": (final_stage.test_set_looks, "look"),
}


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.wide)])
def test_a_kill_at_any_moment_of_the_final_stage_changes_nothing(spec, tmp_path, whole, monkeypatch, every):
    """Of the moments each second one here; each of them is a signal's, too."""
    folder = make_data(tmp_path)

    def die() -> None:
        raise Killed

    for number, (place, name) in enumerate([*FINAL.values()][every - 1 :: every]):
        with monkeypatch.context() as patch:
            before_calling(patch, place, name, die)
            with pytest.raises(Killed):
                train(spec, folder, "killed", resume=number > 0)
        assert finished(folder / "killed") is None  # "completed" comes last
    assert equal(whole.folder, train(spec, folder, "killed", resume=True).folder)
    assert len((folder / "killed" / "looks.jsonl").read_text().splitlines()) == 1


def test_a_signal_in_the_last_step_is_not_forgotten(spec, folder, whole, monkeypatch):
    original = KeelTrainer.compute_loss

    def last(self, *args, **kwargs):
        if self.state.global_step == self.state.max_steps - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(KeelTrainer, "compute_loss", last)
        with pytest.raises(Stopped):
            train(spec, folder, "last")
    assert equal(whole.folder, train(spec, folder, "last", resume=True).folder)


def test_what_is_known_of_a_stopped_training_is_in_its_result(spec, folder, whole, monkeypatch, capfd):
    """And that it was heard is said within the step: steps may be slow, and who waits in silence asks again."""
    original = KeelTrainer.compute_loss

    def second(self, *args, **kwargs):
        if self.state.global_step == 0 and not self.training_totals.stop_asked:
            os.kill(os.getpid(), signal.SIGTERM)
            assert "stopping: this step is finished" in until_said(capfd)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(KeelTrainer, "compute_loss", second)
        with pytest.raises(Stopped, match="stopped after step 2 of 3") as stopped:
            train(spec, folder, "known", display=Display())
    assert "checkpoints/checkpoint-2" in stopped.value.__notes__[0]
    known = json.loads((folder / "known" / "result.json").read_text())
    assert known["training"]["steps"] == 2
    assert known["objective"]["cross_entropy"] > 0
    assert known["metrics"]["before"] == whole.result["metrics"]["before"]
    assert known["data"] == whole.result["data"]
    assert equal(whole.folder, train(spec, folder, "known", resume=True).folder)


def test_the_caller_s_own_handlers_are_back(spec, folder, whole):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    train(spec, folder, "whole", resume=True)
    assert [signal.getsignal(number) for number in numbers] == before
    with pytest.raises(UserError, match="in use"):
        train(spec, folder, "whole")
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_run_that_is_copied_away_and_back_goes_on_at_another_place(spec, tmp_path, tiny, monkeypatch):
    """A spot instance: recipe, data and output are synchronised to a bucket, and back to another machine's disk."""
    home, away, back = tmp_path / "home", tmp_path / "bucket", tmp_path / "disk" / "deep" / "back"
    make_data_in(home)
    spec = {**spec, "training": {**spec["training"], "save_steps": 1}}
    with monkeypatch.context() as patch:
        copy_at(patch, {2: (home / "runs" / "whole", home / "runs" / "killed")})
        whole = train(spec, home, "runs/whole")
    shutil.copytree(home, away)
    shutil.rmtree(home / "runs" / "killed")
    shutil.copytree(away, back)
    again = train(spec, back, str(back / "runs" / "killed"), resume=True)
    assert same(whole.folder, again.folder)
    assert (whole.folder / "log.jsonl").read_text() == (again.folder / "log.jsonl").read_text()
    model = re.compile(r'"[^"]*/model"')  # as seen from the run's folder
    results = [model.sub('"model"', (run.folder / "result.json").read_text()) for run in (whole, again)]
    assert timeless(json.loads(results[0])) == timeless(json.loads(results[1]))


def make_data_in(folder: Path) -> None:
    folder.mkdir(parents=True)
    make_data(folder)


# ------------------------------------------------------------------------------------------------------- the command


def test_the_last_line_says_what_goes_on(spec, tmp_path, monkeypatch, capsys):
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my recipe.yaml").write_text(json.dumps(spec))

    def last(*arguments: str) -> tuple[int, str]:
        status = keeltune(monkeypatch, "train", "my recipe.yaml", *arguments)
        return status, capsys.readouterr().err.splitlines()[-1]

    again = "keeltune train 'my recipe.yaml'"
    status, line = last("data.train=gone.jsonl")
    assert (status, line) == (
        2,
        f"1 problem; nothing of a run is on disk; mend it and start: {again} data.train=gone.jsonl",
    )
    with monkeypatch.context() as patch:
        before_calling(patch, prepare, "prepare", lambda: os.kill(os.getpid(), signal.SIGTERM))
        status, line = last()
    assert (status, line) == (75, f"stopped; nothing of a run is on disk; go on with: {again} --resume")
    with monkeypatch.context() as patch:
        before_calling(patch, run_page, "page", lambda: os.kill(os.getpid(), signal.SIGTERM))
        status, line = last("--resume")
    out = tmp_path / "out"
    assert (status, line) == (75, f"stopped; safe in {out}: checkpoints/checkpoint-3; go on with: {again} --resume")
    (tmp_path / "train.jsonl").write_text((tmp_path / "pool.jsonl").read_text())
    status, line = last("--resume")
    assert status == 2 and f"safe in {out}: checkpoints/checkpoint-3; mend it and start: {again} --resume" in line


def test_a_second_signal_ends_the_command_at_once(spec, tmp_path, monkeypatch):
    make_data(tmp_path)
    (tmp_path / "recipe.yaml").write_text(json.dumps(spec))

    with monkeypatch.context() as patch:
        before_calling(patch, prepare, "prepare", lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert keeltune(patch, "train", str(tmp_path / "recipe.yaml")) == 75
    done = processes.start(ending, str(tmp_path), [signal.SIGTERM, signal.SIGINT], "train", "recipe.yaml", "--resume",
                           output=tmp_path / "log")  # fmt: skip
    status, said = done.wait(60), done.text
    assert status == 130, said
    assert "Traceback" not in said and said.splitlines()[-1].startswith("ended at once, as it was asked twice; ")
    assert json.loads((tmp_path / "out" / "result.json").read_text())["status"] == "stopped"


@pytest.mark.parametrize(("asked", "to_the_end"), [(True, True), (True, False), (False, True)])
def test_nothing_disturbs_the_end_of_a_command_that_was_asked_to_end(asked, to_the_end):
    """Of the process alone that ends: a caller's own handlers are back."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in stop_signals.SIGNALS}  # a shell ignores some
    try:
        with suppress(stop_signals.StopAsked), stop_signals.listened(to_the_end=to_the_end):
            if asked:
                os.kill(os.getpid(), signal.SIGTERM)
        ends = asked and to_the_end
        assert all((signal.getsignal(number) == signal.SIG_IGN) == ends for number in (signal.SIGINT, signal.SIGTERM))
        if ends:
            os.kill(os.getpid(), signal.SIGINT)  # heard, it would raise KeyboardInterrupt here
        else:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ending(folder: str, numbers: list[int], *arguments: str) -> None:
    """The command, which gets signals while it reads its data; the second one while it still ends."""
    os.chdir(folder)

    def read(*args, **kwargs):
        try:
            os.kill(os.getpid(), numbers[0])
        finally:
            for number in numbers[1:]:
                os.kill(os.getpid(), number)
                time.sleep(60)

    prepare.prepare = read
    processes.command(*arguments)


def rank(folder: str) -> None:
    """One of two processes; the second one is asked to stop, in the step that its folder is named by."""
    original, step = KeelTrainer.compute_loss, int(Path(folder).name)

    def second(self, *args, **kwargs):
        if os.environ["RANK"] == "1" and self.state.global_step == step and not self.training_totals.stop_asked:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    KeelTrainer.compute_loss = second
    try:
        processes.command("train", f"{folder}/recipe.yaml", "training.batch_size=4")
    finally:
        distributed.leave_group()


@pytest.mark.slow  # two processes
@pytest.mark.parametrize("step", [0, 2])  # the first one, and the last one, after which no step agrees
def test_one_rank_s_signal_stops_all(spec, tmp_path, step):
    folder = tmp_path / str(step)
    make_data_in(folder)
    (folder / "recipe.yaml").write_text(json.dumps(spec))
    done = processes.ranks(rank, str(folder), folder=tmp_path)
    assert [one.process.exitcode for one in done] == [75, 75], [one.text for one in done]
    assert not any("Traceback" in one.text for one in done)
    (said,) = [one.text for one in done if "stopped" in one.text]  # by whichever was the first to say it
    assert f"stopped after step {min(step + 2, 3)} of 3" in said
    assert "; go on with: torchrun --nproc_per_node 2 -m keeltune train" in said.splitlines()[-1]
