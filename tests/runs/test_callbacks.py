"""Callbacks that a caller gives are called as a stock Trainer calls them, may stop, and may fail without harm."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import pytest
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

import keeltune as kt
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import runs

QUIET = Display(quiet=True)

EVENTS = [name for name in vars(TrainerCallback) if name.startswith("on_")]


class Heard(TrainerCallback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.metrics: list[dict[str, float]] = []
        self.given: set[str] = set()


def _hears(event: str) -> Any:
    def hear(self: Heard, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append((event, state.global_step))
        self.given |= {name for name, value in kwargs.items() if value is not None}
        if event == "on_evaluate":
            self.metrics.append(kwargs["metrics"])

    return hear


for _event in EVENTS:
    setattr(Heard, _event, _hears(_event))


class StopAt(TrainerCallback):
    def __init__(self, step: int, event: str = "on_step_end"):
        def ask(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop |= state.global_step >= step

        setattr(self, event, ask)


class Pruned(Exception):
    """An error of the caller's own."""


class FailsAt(TrainerCallback):
    def __init__(self, step: int, error: Exception):
        self.step, self.error = step, error

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self.step:
            raise self.error


@pytest.fixture
def spec(tiny, tmp_path, monkeypatch):
    """Six steps in two epochs, evaluated after each second step."""
    monkeypatch.chdir(runs.make_data(tmp_path))
    training = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32", "logging_steps": 1}
    return runs.spec_of("fine-tuning", tiny("bert"), training=training, evaluation={"every": 2, "patience": None})


def train(spec: dict, **options: Any) -> kt.Run:
    return kt.train(spec, display=QUIET, **options)


def history(run: kt.Run) -> list[dict]:
    return runs.lines(run.folder / "log.jsonl")


def evaluated(run: kt.Run) -> list[int]:
    return [entry["step"] for entry in history(run) if "eval_accuracy" in entry]


def stock_events(tiny, folder: Path) -> list[tuple[str, int]]:
    """What a stock Trainer tells of as many steps, with evaluations and checkpoints after each second one."""
    import datasets
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    words = AutoTokenizer.from_pretrained(tiny("bert"))
    names = {"negative": 0, "positive": 1}
    rows = [{**words(row["text"]), "label": names[row["label"]]} for row in runs.lines(folder / "train.jsonl")]
    held, heard = datasets.Dataset.from_list(rows), Heard()
    args = TrainingArguments(
        output_dir=str(folder / "stock"), num_train_epochs=2, per_device_train_batch_size=8, logging_steps=1,
        eval_strategy="steps", eval_steps=2, save_steps=2, report_to="none", disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(tiny("bert"))
    Trainer(model, args, train_dataset=held, eval_dataset=held, processing_class=words, callbacks=[heard]).train()
    return heard.events


def test_they_are_told_what_a_stock_trainer_tells_and_change_nothing(tiny, tmp_path, spec, capsys):
    heard = Heard()
    run = train(spec | {"output": "heard"}, callbacks=[heard])
    theirs = [one for one in stock_events(tiny, tmp_path) if one[0] != "on_prediction_step"]
    del theirs[-1 - theirs[::-1].index(("on_log", 6))]  # its closing line of speeds
    assert heard.events == theirs
    assert [metrics["eval_accuracy"] for metrics in heard.metrics] == [
        entry["eval_accuracy"] for entry in history(run) if "eval_accuracy" in entry
    ]
    assert {
        "model",
        "processing_class",
        "optimizer",
        "lr_scheduler",
        "train_dataloader",
        "metrics",
        "logs",
    } <= heard.given
    assert runs.furthest(run, train(spec)) == 0.0


def test_a_class_is_made_and_what_is_no_callback_is_refused(spec):
    made: list[TrainerCallback] = []

    class Made(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            made.append(self)

    train(spec | {"training": {**spec["training"], "seed": [0, 1]}}, callbacks=[Made])
    assert [type(one) for one in made] == [Made, Made]
    assert made[0] is not made[1]
    for wrong in (Made(), [print], ["tensorboard"], [Made, 3]):
        with pytest.raises(UserError, match="TrainerCallback") as refused:
            train(spec | {"output": "wrong"}, callbacks=wrong)
        assert len(refused.value.problems) == 1
    assert not Path("wrong/result.json").exists()


@pytest.mark.parametrize(
    ("event", "step"), [("on_step_end", 3), ("on_log", 3), ("on_evaluate", 2), ("on_epoch_end", 3)]
)
def test_a_stop_is_measured_saved_and_a_finished_run(spec, event, step, capsys):
    heard = Heard()
    run = kt.train(spec, callbacks=[StopAt(step, event), heard])
    assert run.result["status"] == "completed"
    assert run.result["training"]["steps"] == step
    assert evaluated(run)[-1] == step
    assert [at for event, at in heard.events if event == "on_save"][-1] == step
    assert f"training ended at step {step} of 6: a callback asked for it" in capsys.readouterr().err.replace("\n", " ")
    assert train(spec, resume=True).result == run.result  # it is finished: nothing is left to do


def test_a_stop_without_validation_rows_leaves_the_last_weights(spec):
    data = {name: file for name, file in spec["data"].items() if name != "validation"}
    run = train(spec | {"data": data, "evaluation": {}}, callbacks=[StopAt(4)])
    assert run.result["status"] == "completed"
    assert run.result["training"]["steps"] == 4

    class Asks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_evaluate = True

    with pytest.raises(UserError, match="validation rows to evaluate on"):
        train(spec | {"data": data, "evaluation": {}, "output": "asks"}, callbacks=[Asks()])


def test_the_stock_early_stopping_ends_a_run_by_the_chosen_metric(spec):
    patient = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=10.0)  # no gain is enough
    run = train(spec | {"evaluation": {"every": 1, "patience": None, "metric": "loss"}}, callbacks=[patient])
    assert run.result["training"]["steps"] == 2
    assert evaluated(run) == [1, 2]


def test_each_seed_begins_anew(spec):
    patient, heard = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=10.0), Heard()
    training = {**spec["training"], "seed": [0, 1]}
    run = train(spec | {"training": training, "evaluation": {"every": 1, "patience": None}}, callbacks=[patient, heard])
    results = [json.loads((part / "result.json").read_text()) for part in run.parts]
    assert [result["training"]["steps"] for result in results] == [2, 2]
    assert [event for event, _ in heard.events].count("on_train_begin") == 2


@pytest.mark.parametrize("error", [Pruned("not worth it"), OSError(28, "No space left on device"), ValueError("nan")])
def test_an_error_of_its_own_reaches_the_caller_and_the_run_goes_on(spec, error):
    whole = train(spec | {"output": "whole"})
    with pytest.raises(type(error)) as raised:
        train(spec, callbacks=[FailsAt(5, error)])
    assert raised.value is error
    said = "".join(traceback.format_exception(raised.value))
    assert "in on_log\n    raise self.error" in said
    assert "the callback FailsAt.on_log raised it" in said
    assert "after step 5 of 6" in said
    assert "a callback failed; safe in" in said
    assert "bug of keeltune" not in said
    assert json.loads(Path("out/result.json").read_text())["status"] == "failed"
    resumed = train(spec, resume=True)  # with none: they are no part of the run
    assert runs.furthest(whole, resumed) == 0.0
    assert resumed.result["metrics"] == whole.result["metrics"]


def test_an_error_before_the_first_step_has_its_place_too(spec):
    class Fails(TrainerCallback):
        def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise Pruned

    with pytest.raises(Pruned) as raised:
        train(spec, callbacks=[Fails])
    assert "Fails.on_init_end raised it" in raised.value.__notes__[0]
    assert "before the first step" in raised.value.__notes__[0]


def test_what_a_callback_counted_goes_on_with_the_run(spec):
    spec = spec | {"evaluation": {"every": 1, "patience": None}}
    patient = EarlyStoppingCallback(early_stopping_patience=4, early_stopping_threshold=10.0)
    with pytest.raises(Pruned):
        train(spec, callbacks=[patient, FailsAt(4, Pruned())])
    again = EarlyStoppingCallback(early_stopping_patience=4, early_stopping_threshold=10.0)
    assert train(spec, resume=True, callbacks=[again]).result["training"]["steps"] == 5
