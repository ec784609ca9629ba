"""A run as another process sees it: before it begins, while its files are written, and however it ends."""

from __future__ import annotations

import json
import os
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from keeltune.runs import live_run, progress_file
from keeltune.runs.live_run import LiveRun, Log
from keeltune.runs.output_folder import PROGRESS
from keeltune.runs.progress_file import HELD, ProgressFile
from keeltune.runs.result_shape import empty
from keeltune.utils.folder_lock import LOCK, FolderLock

RECIPE = "task: sentiment-analysis\nmethod: fine-tuning\nmodel: base\noutput: .\ndata: {train: t.jsonl}\n"
ROW = {"row": 3, "inputs": {"text": "fine"}, "prediction": "positive", "gold": "positive", "score": 1.0}


def told(step: int, **changes) -> dict:
    return {"step": step, "steps": 100, "first": 0, "elapsed": 5.0, "training": True, "written": time.time(),
            "memory": {"now": 10, "peak": 20}, "held": [[1, 9], [2, 10]], "samples": {"step": step, "rows": [ROW]},
            **changes}  # fmt: skip


def say(folder: Path, **values) -> None:
    (folder / PROGRESS).write_text(json.dumps(values), encoding="utf-8")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_a_run_from_before_its_folder_is_there_to_its_end(tmp_path):
    folder = tmp_path / "run"
    live = LiveRun(folder)
    assert (live.state()["status"], live.state()["name"]) == ("waiting", "run")
    lock = FolderLock(folder)
    assert lock.take() is None
    assert live.state()["status"] == "preparing"
    assert f"process {os.getpid()} on " in live.state()["owner"]
    (folder / "recipe.yaml").write_text(RECIPE)
    say(folder, **told(0))
    now = live.state()
    assert (now["status"], now["task"], now["method"], now["seconds_left"]) == (
        "training", "sentiment-analysis", "fine-tuning", None
    )  # fmt: skip
    say(folder, **told(40))
    now = live.state()
    assert (now["status"], now["step"], now["steps"]) == ("training", 40, 100)
    assert now["samples"] == {"step": 40, "rows": [{**ROW, "row": "3"}]}
    assert now["memory"] == {"now": 10, "peak": 20}
    for done in (told(100), told(60, training=False)):  # all steps, or stopped early
        say(folder, **done)
        assert live.state()["status"] == "finishing"
    (folder / "report.html").write_text("<!doctype html>")
    assert live.state()["report"] is False  # not before the result
    metrics = {"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.75, "by_label": {}}, "source": None}
    result = empty() | {"status": "completed", "task": "sentiment-analysis", "method": "fine-tuning",
                        "metrics": metrics, "intervals": {}, "data": {}, "objective": {},
                        "training": {"seconds": 1.0}}  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    assert live.state()["status"] == "finishing"  # as long as its process is there
    lock.release()
    now = live.state()
    assert (now["status"], now["owner"], now["report"]) == ("completed", None, True)
    assert now["metrics"] == {"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.75}}
    assert now["seconds_left"] is None


@pytest.mark.parametrize("status", ["stopped", "diverged", "failed"])
def test_a_run_that_ended_early_goes_on_in_the_same_folder(folder, status):
    live = LiveRun(folder)
    (folder / "recipe.yaml").write_text(RECIPE)
    say(folder, **told(40, written=time.time() - 100))
    assert live.state()["status"] == "killed"  # nobody is there, and nobody said why
    (folder / "result.json").write_text(json.dumps(empty() | {"status": status}))
    assert live.state()["status"] == status
    lock = FolderLock(folder)
    assert lock.take() is None
    assert live.state()["status"] == "preparing"  # what it said before it was stopped is of the past
    say(folder, **told(50, first=40, elapsed=2.0))
    now = live.state()
    assert now["status"] == "training"
    assert now["steps_per_second"] == pytest.approx(5.0)  # of its own ten steps, not of all fifty
    assert now["seconds_left"] == pytest.approx(10.0, abs=1.0)
    lock.release()
    assert live.state()["status"] == status


def test_a_killed_runs_lock_holds_nobody(folder):
    (folder / LOCK).write_text(json.dumps({"pid": 2**22 + 1, "host": "h", "started": "2026-01-01T00:00:00Z"}))
    (folder / "recipe.yaml").write_text(RECIPE)
    assert LiveRun(folder).state()["status"] == "killed"


def test_the_time_left_is_never_negative(folder):
    lock = FolderLock(folder)
    assert lock.take() is None
    for changes in ({"written": time.time() + 9e9}, {"elapsed": -5.0}, {"elapsed": 0.0}, {"first": 90}):
        say(folder, **told(40, **changes))
        assert (LiveRun(folder).state()["seconds_left"] or 0.0) >= 0.0
    lock.release()


def test_the_log_is_read_on_and_its_last_line_may_be_half_written(folder):
    log = Log(folder / "log.jsonl")
    assert log.refresh() == []
    with log.file.open("a") as stream:
        stream.write('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
        stream.flush()
        assert log.refresh() == [{"step": 1, "loss": 2.0}]
        read = log.read
        stream.write('ss": 1.5}\n')
        stream.flush()
        assert log.refresh() == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]
        assert log.read > read
    lines = ['{"step": 3, "loss": NaN, "eval_accuracy": 0.5, "note": "x", "flag": true}', "", "[1]", "null", "{",
             '{"loss": 1}', '{"step": "4"}', "[" * 100_000, "\udcff\udcfe",
             '{"step": 5, "loss": -Infinity}']  # fmt: skip
    with log.file.open("a", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write("".join(f"{line}\n" for line in lines))
    assert log.refresh()[2:] == [{"step": 3, "eval_accuracy": 0.5}, {"step": 5}]


def test_a_log_that_another_takes_the_place_of_is_read_anew(folder):
    """Where a run goes on its log is that of its checkpoint, which may be shorter, or longer by now than what was."""
    file = folder / "log.jsonl"
    log = Log(file)
    file.write_text("".join(f'{{"step": {n}, "loss": 1.0}}\n' for n in range(50)))
    assert len(log.refresh()) == 50
    file.write_text("".join(f'{{"step": {n}, "loss": 1.0}}\n' for n in range(20)))
    assert len(log.refresh()) == 20
    file.write_text("".join(f'{{"step": {n}, "loss": 2.0}}\n' for n in range(90)))
    assert [entry["loss"] for entry in log.refresh()] == [2.0] * 90
    file.unlink()
    assert log.refresh() == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", '{"step": 1}', "[" * 5000, '{"step": "1", "steps": 2, "first": 0, "elapsed": 1}',
     '{"step": 1e400, "steps": 2, "first": 0, "elapsed": 1, "written": 1}', "\x00\x01"],
)  # fmt: skip
def test_what_is_no_progress_is_none(folder, text):
    for name in (PROGRESS, "result.json", "recipe.yaml"):
        (folder / name).write_text(text)
    assert LiveRun(folder).state()["status"] == "killed"
    assert LiveRun(folder).state()["step"] is None


def test_samples_of_another_shape_are_left_out(folder):
    live = LiveRun(folder)
    for samples in ("x", {"step": 1}, {"step": 1, "rows": [1, {}, {"inputs": 1}]}, {"step": None, "rows": [ROW]}):
        say(folder, **told(1, samples=samples, memory=3, held="x"))
        now = live.state()
        assert (now["samples"], now["memory"], now["held"]) == (None, {}, [])


def test_what_stands_in_a_files_place_is_not_read(folder, tmp_path):
    (tmp_path / "elsewhere").write_text(json.dumps(told(1)))
    (folder / "log.jsonl").mkdir()
    (folder / PROGRESS).mkdir()
    assert LiveRun(folder).state()["log"] == []
    (tmp_path / "file").write_text("x")
    assert LiveRun(tmp_path / "file").state()["status"] == "waiting"


def test_several_seeds_are_one_run(folder):
    lock = FolderLock(folder)
    assert lock.take() is None
    (folder / "recipe.yaml").write_text(RECIPE)
    for number, step in ((0, 100), (1, 30)):
        (folder / f"seed-{number}").mkdir()
        say(folder / f"seed-{number}", **told(step, written=time.time() + number))
        (folder / f"seed-{number}" / "log.jsonl").write_text(f'{{"step": {step}, "loss": 1.0}}\n')
    (folder / "seed-7-failed").mkdir()
    finished = {"status": "completed", "task": "t", "method": "fine-tuning", "metrics": {}, "intervals": {}, "data": {},
                "objective": {}, "training": {"seconds": 1.0}}  # fmt: skip
    (folder / "seed-0" / "result.json").write_text(json.dumps(empty() | finished))
    now = LiveRun(folder).state()
    assert (now["status"], now["seed"], now["step"]) == ("training", "seed-1", 30)
    assert now["seeds"] == [{"name": "seed-0", "status": "completed"}, {"name": "seed-1", "status": "training"}]
    assert now["log"] == [{"step": 30, "loss": 1.0}]
    lock.release()


def test_files_that_are_written_while_they_are_read(folder):
    """Each state is one that was written: steps do not go back, and lines are whole."""
    lock = FolderLock(folder)
    assert lock.take() is None
    ended = threading.Event()

    def write() -> None:
        writer = ProgressFile(folder / PROGRESS)
        writer.begin(0, 400)
        with (folder / "log.jsonl").open("a", buffering=1) as stream:
            for step in range(1, 401):
                line = json.dumps({"step": step, "loss": 1 / step}) + "\n"
                stream.write(line[:7])
                stream.flush()
                stream.write(line[7:])
                writer.written = -1e9  # every step is written
                writer.move(step)
        ended.set()

    threading.Thread(target=write).start()
    live, steps, seen = LiveRun(folder), [], 0
    while not ended.is_set() or seen < 400:
        now = live.state()
        steps.append(now["step"] or 0)
        assert [entry["step"] for entry in now["log"]] == list(range(1, len(now["log"]) + 1))
        assert all(entry["loss"] == 1 / entry["step"] for entry in now["log"])
        seen = len(now["log"])
    assert steps == sorted(steps)
    assert live.state()["step"] == 400
    lock.release()


# What a training says of itself


def test_it_is_written_once_a_second_at_most(tmp_path):
    clock = [0.0]
    writer = ProgressFile(tmp_path / PROGRESS, clock=lambda: clock[0])
    writer.begin(5, 1000)

    def said() -> dict:
        return json.loads((tmp_path / PROGRESS).read_text())

    assert (said()["step"], said()["first"], said()["elapsed"]) == (5, 5, 0.0)
    for step in range(6, 106):
        clock[0] += 0.1
        writer.move(step)
        assert said()["step"] >= step - 10
    assert said()["elapsed"] == pytest.approx(10.0, abs=1.0)
    written = {said()["step"]}
    for step in range(106, 116):
        clock[0] += 0.1
        writer.move(step)
        written.add(said()["step"])
    assert len(written) <= 3
    writer.show([ROW])
    assert said()["samples"] == {"step": 115, "rows": [ROW]}  # an evaluation's at once
    assert said()["training"] is True
    writer.end()
    assert said()["training"] is False


def test_it_stays_small_however_long_a_training_is(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_file, "EVERY", -1.0)
    memory = iter(range(10**9, 2 * 10**9))
    monkeypatch.setattr(progress_file, "memory_in_use", lambda: next(memory))
    writer = ProgressFile(tmp_path / PROGRESS)
    writer.begin(0, 10_000)
    for step in range(1, 5_001):
        writer._hold(next(memory))
        writer.step = step
    writer.move(5_001)
    held = [step for step, _ in json.loads((tmp_path / PROGRESS).read_text())["held"]]
    assert HELD // 3 < len(held) <= HELD
    gaps = [b - a for a, b in pairwise(held)]
    assert max(gaps) <= 2 * min(gaps[1:])
    assert held[-1] > 4_900
    assert (tmp_path / PROGRESS).stat().st_size < 10_000


def test_a_full_disk_ends_no_training(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress_file, "write_unsynced", full)
    writer = ProgressFile(tmp_path / PROGRESS)
    writer.begin(0, 10)
    writer.show([ROW])
    writer.end()
    ProgressFile(None).begin(0, 10)  # another rank writes nothing
    assert list(tmp_path.iterdir()) == []


def test_it_is_for_its_owner_alone_and_leaves_nothing_beside_it(tmp_path):
    writer = ProgressFile(tmp_path / PROGRESS)
    writer.begin(0, 10)
    writer.end()
    assert [path.name for path in tmp_path.iterdir()] == [PROGRESS]
    assert (tmp_path / PROGRESS).stat().st_mode & 0o077 == 0


def test_the_clock_of_a_lock_is_read():
    assert live_run._moment("1970-01-01T00:01:00Z") == 60.0
    assert live_run._moment("no time") == 0.0
