"""What a training writes while it goes on, step by step: its log, and how far it is for whoever watches it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerCallback

from keeltune.evaluation import split_scores
from keeltune.runs import fit
from keeltune.runs.live_run import LiveRun
from keeltune.runs.output_folder import PROGRESS
from keeltune.runs.training_log import Watcher
from keeltune.training.given_callbacks import GivenCallbacks
from keeltune.utils.folder_lock import FolderLock
from tests.evaluation.test_samples import LABEL, TEXT, answered, row, task_of

ROWS = [row(n, text=f"text {n}", label="good") for n in range(1, 31)]


class Said:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def trained(watcher: Watcher, state: Any, steps: range, every: int) -> None:
    """The calls of a Trainer that logs each step and is evaluated each `every` steps."""
    for step in steps:
        state.global_step = step
        watcher.on_step_end(None, state, None)
        state.log_history.append({"step": step, "loss": 1 / step, "cross_entropy": 1 / step, "learning_rate": 1e-5})
        watcher.on_log(None, state, None)
        if step % every == 0:
            watcher.progress.show([{"row": 1, "inputs": {"text": "x"}, "prediction": "a", "gold": "a", "score": 1.0}])
            state.log_history.append({"step": step, "eval_accuracy": 0.5, "eval_loss": 0.7})
            watcher.on_log(None, state, None)


def test_a_watched_training_from_its_first_step_to_one_that_goes_on(tmp_path):
    lock, live, said = FolderLock(tmp_path), LiveRun(tmp_path), Said()
    assert lock.take() is None
    state = SimpleNamespace(global_step=0, max_steps=40, log_history=[])
    watcher = Watcher(tmp_path / "log.jsonl", said, True)
    watcher.on_train_begin(None, state, None)
    assert (live.state()["status"], live.state()["step"], live.state()["log"]) == ("training", 0, [])
    trained(watcher, state, range(1, 21), every=10)
    now = live.state()
    assert (now["status"], now["step"], now["steps"]) == ("training", 20, 40)
    assert [entry["step"] for entry in now["log"] if "loss" in entry] == list(range(1, 21))
    assert now["samples"]["step"] == 20
    assert said.lines[-1] == "  step 20: validation accuracy 0.5000 · loss 0.7000"
    watcher.on_train_end(None, state, None)
    watcher.progress.end()
    assert live.state()["status"] == "finishing"
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == state.log_history
    state = SimpleNamespace(global_step=15, max_steps=40, log_history=state.log_history[:16])
    again = Watcher(tmp_path / "log.jsonl", said, True)
    again.on_train_begin(None, state, None)
    now = live.state()
    assert (now["status"], now["step"], now["seconds_left"]) == ("training", 15, None)
    assert len(now["log"]) == 16  # the log of its checkpoint
    trained(again, state, range(16, 41), every=10)
    assert live.state()["status"] == "finishing"
    lock.release()


def test_another_rank_writes_nothing(tmp_path):
    state = SimpleNamespace(global_step=0, max_steps=4, log_history=[])
    watcher = Watcher(tmp_path / "log.jsonl", Said(), False)
    watcher.on_train_begin(None, state, None)
    trained(watcher, state, range(1, 5), every=2)
    watcher.progress.end()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("validates", [True, False])
def test_the_trainer_shows_its_evaluations_to_the_watcher(tmp_path, monkeypatch, validates):
    """What is scored while it trains is what is shown: the first rows of those that are looked at, their answers."""
    handed: dict[str, Any] = {}
    task = task_of(TEXT, LABEL, answer="label")
    training = SimpleNamespace(rates=(1e-3, 1e-2))
    recipe = SimpleNamespace(evaluation=SimpleNamespace(rows=8), training=training)
    material = SimpleNamespace(rows={"validation": ROWS if validates else []}, recipe=recipe, task=task)
    job = SimpleNamespace(material=material, model="model", plan="plan", of=lambda split, model: (task, model),
                          student=SimpleNamespace(fresh=()))  # fmt: skip
    monkeypatch.setattr(fit, "KeelTrainer", lambda *args, **named: handed.update(named))
    monkeypatch.setattr(fit, "step_loss", lambda job: None)
    monkeypatch.setattr(fit.budget_measure, "budget", lambda job, scores: None)
    monkeypatch.setattr(fit.run_identity, "run_of", lambda folder: {})
    monkeypatch.setattr(split_scores, "predict", lambda job, model, split, display, indices, fast: [
        answered("good" if n % 2 else "bad") for n in range(len(indices))
    ])  # fmt: skip
    monkeypatch.setattr(split_scores.scores, "score", lambda *args, **named: SimpleNamespace(metrics={"accuracy": 0.5}))
    watcher, heard = Watcher(tmp_path / "log.jsonl", Said(), True), TrainerCallback()
    start = SimpleNamespace(scores={}, inputs="inputs")
    fit._trainer(job, tmp_path, None, fit.EvaluationSchedule(), start, watcher, GivenCallbacks([heard]))
    assert handed["callbacks"] == [watcher, "inputs", heard]
    validate = handed["monitoring"].validate
    if not validates:
        assert validate is None
        return
    assert validate() == {"accuracy": 0.5}
    shown = json.loads((tmp_path / PROGRESS).read_text())["samples"]["rows"]
    indices = split_scores.dataset.subset(len(ROWS), 8)
    assert [one["row"] for one in shown] == [ROWS[i].line for i in indices[:6]]
    assert [one["prediction"] for one in shown] == ["bad", "good"] * 3
    assert [one["score"] for one in shown] == [0.0, 1.0] * 3


def test_what_has_been_left_is_cleared_with_the_run(tmp_path):
    from keeltune.runs import claim

    for name in ("recipe.yaml", "log.jsonl", PROGRESS, "notes.txt"):
        (tmp_path / name).write_text("x")
    claim.take_over(tmp_path, resume=False, overwrite=True)
    assert {path.name for path in Path(tmp_path).iterdir()} == {"notes.txt"}


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        ({"cross_entropy": 1.2428}, "loss 1.2426"),
        ({"cross_entropy": 0.9}, "loss 1.2426 · cross_entropy 0.9000"),  # a regulariser is the rest
        ({"cross_entropy": 1.2428, "divergence": 0.0}, "loss 1.2426 · cross_entropy 1.2428 · divergence 0.0000"),
    ],
)
def test_one_number_is_not_told_twice(tmp_path, terms, told):
    watcher = Watcher(tmp_path / "log.jsonl", Said(), True)
    watcher.on_log(None, SimpleNamespace(log_history=[{"step": 1, "loss": 1.2426, **terms}]), None)
    assert watcher.note == told
