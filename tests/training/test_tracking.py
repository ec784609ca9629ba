"""What trackers are told: TensorBoard's files are read back, the others' calls are written down."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import transformers.integrations.integration_utils as integrations

from keeltune.runs import conclusion
from keeltune.training import tracking
from tests.helpers import runs


@pytest.fixture
def spec(tiny) -> dict[str, Any]:
    return runs.spec_of("fine-tuning", tiny("bert"))


def trained(spec: dict[str, Any], folder: Path, tracker: str, **changes: Any) -> Any:
    spec = {**spec, "training": {"max_steps": 4, "batch_size": 8, "logging_steps": 1, "report_to": tracker}}
    return runs.train(spec, runs.make_data(folder), **changes)


def test_tensorboard_has_curves_scores_verdict_and_recipe(spec, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="comes with keeltune[tracking]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    done = trained(spec, tmp_path, "tensorboard")
    events = EventAccumulator(str(done.folder / tracking.FOLDER))
    events.Reload()
    assert [event.step for event in events.Scalars("train/cross_entropy")] == [1, 2, 3, 4]
    assert events.Scalars("eval/accuracy")
    for name, value in done.result["metrics"]["test"].items():
        if isinstance(value, float):
            (told,) = events.Scalars(f"test/{name}")
            assert (told.step, told.value) == (4, pytest.approx(value, rel=1e-6))

    def text(tag: str) -> str:
        (told,) = events.Tensors(f"{tag}/text_summary")
        return told.tensor_proto.string_val[0].decode()

    assert text("verdict") == done.result["overfitting"]["verdict"]
    assert (done.folder / "recipe.yaml").read_text("utf-8") in text("recipe")
    told = json.loads(text("args"))
    assert told["recipe.task"] == "sentiment-analysis"
    assert told["recipe.training.max_steps"] == 4
    assert told["output_dir"] == "checkpoints"
    assert not any(str(tmp_path) in str(value) for value in told.values())
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")
    assert not (done.folder / "checkpoints" / "runs").exists()


def test_overwriting_a_run_takes_its_curves_away(spec, tmp_path):
    pytest.importorskip("tensorboard", reason="comes with keeltune[tracking]")
    from keeltune.runs import run
    from keeltune.utils.progress import Display

    done = trained(spec, tmp_path, "tensorboard")
    first = {file.name for file in (done.folder / tracking.FOLDER).iterdir()}
    again = runs.spec_of("fine-tuning", spec["model"], training={"max_steps": 1, "batch_size": 8})
    from keeltune import recipe

    run.train(recipe.from_dict(again, tmp_path), overwrite=True, display=Display(quiet=True))
    assert first
    assert not (done.folder / tracking.FOLDER).exists()


# Trackers that are not installed here, as far as transformers and we call them


class Calls(list):
    """(name, arguments) of every call, in their order."""

    def note(self, name: str, answer: Any = None):
        def call(*args: Any, **kwargs: Any) -> Any:
            self.append((name, args, kwargs))
            return answer

        return call

    def names(self) -> list[str]:
        return [name for name, *_ in self]


def module(name: str, **members: Any) -> ModuleType:
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(members)
    return made


class Config(dict):
    def update(self, values: Any = (), allow_val_change: bool = False) -> None:  # type: ignore[override]
        super().update(values)


def wandb(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> Any:
    run = SimpleNamespace(summary={}, id="1", name="r", _label=calls.note("label"), url="")
    made = module(
        "wandb", run=None, config=Config(), log=calls.note("log"), finish=calls.note("finish"),
        define_metric=calls.note("define_metric"), termwarn=calls.note("termwarn"), watch=calls.note("watch"),
    )  # fmt: skip

    def init(**kwargs: Any) -> Any:
        calls.append(("init", (), kwargs))
        made.run = run
        return run

    made.init = init
    for name in ("wandb.sdk", "wandb.sdk.lib"):
        monkeypatch.setitem(sys.modules, name, module(name))
    config_util = module("wandb.sdk.lib.config_util", ConfigError=type("ConfigError", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "wandb.sdk.lib.config_util", config_util)
    monkeypatch.setattr(integrations, "is_wandb_available", lambda: True)
    monkeypatch.setitem(sys.modules, "wandb", made)
    made.run = run
    return made


def test_wandb_has_the_recipe_in_its_config_and_the_verdict_in_its_summary(spec, tmp_path, monkeypatch):
    calls = Calls()
    made = wandb(calls, monkeypatch)
    done = trained(spec, tmp_path, "wandb")
    assert made.config["recipe.task"] == "sentiment-analysis"
    assert made.config["recipe.yaml"] == (done.folder / "recipe.yaml").read_text("utf-8")
    assert made.run.summary["verdict"] == done.result["overfitting"]["verdict"]
    (scores,) = [args[0] for name, args, _ in calls if name == "log" and any(k.startswith("test/") for k in args[0])]
    assert scores["test/accuracy"] == done.result["metrics"]["test"]["accuracy"]
    assert scores["train/global_step"] == 4
    assert any("eval/accuracy" in args[0] for name, args, _ in calls if name == "log")
    assert any("train/cross_entropy" in args[0] for name, args, _ in calls if name == "log")


def mlflow(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> Any:
    active: list[Any] = []

    def start_run(**kwargs: Any) -> None:
        calls.append(("start_run", (), kwargs))
        active.append(SimpleNamespace(info=SimpleNamespace(run_id="1")))

    def end_run() -> None:
        calls.append(("end_run", (), {}))
        active.clear()

    made = module(
        "mlflow", __version__="3.0.0", is_tracking_uri_set=lambda: True, get_tracking_uri=lambda: "file:///offline",
        active_run=lambda: active[0] if active else None, start_run=start_run, end_run=end_run,
        **{name: calls.note(name) for name in ("log_params", "log_metrics", "set_tag", "set_tags", "log_text")},
    )  # fmt: skip
    limits = module("mlflow.utils.validation", MAX_PARAM_VAL_LENGTH=250, MAX_PARAMS_TAGS_PER_BATCH=100)
    made.utils = module("mlflow.utils", validation=limits)
    monkeypatch.setitem(sys.modules, "mlflow", made)
    monkeypatch.setattr(integrations, "is_mlflow_available", lambda: True)
    return made


def test_mlflow_hears_everything_before_its_run_ends(spec, tmp_path, monkeypatch):
    calls = Calls()
    mlflow(calls, monkeypatch)
    done = trained(spec, tmp_path, "mlflow")
    parameters = {k: v for name, args, _ in calls if name == "log_params" for k, v in args[0].items()}
    assert parameters["recipe.method"] == "fine-tuning"
    metrics = [kwargs["metrics"] for name, _, kwargs in calls if name == "log_metrics"]
    assert metrics[-1]["test_accuracy"] == done.result["metrics"]["test"]["accuracy"]
    assert any("eval_accuracy" in one for one in metrics)
    assert ("set_tag", ("verdict", done.result["overfitting"]["verdict"]), {}) in calls
    (text,) = [args for name, args, _ in calls if name == "log_text"]
    assert text == ((done.folder / "recipe.yaml").read_text("utf-8"), "recipe.yaml")
    assert calls.names().count("start_run") == calls.names().count("end_run") == 1
    assert calls.names()[-1] == "end_run"


@pytest.mark.parametrize("moment", ["training", "conclusion"])
def test_a_training_that_fails_ends_its_run_too(spec, tmp_path, monkeypatch, moment):
    calls = Calls()
    mlflow(calls, monkeypatch)

    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a fault")

    if moment == "conclusion":
        monkeypatch.setattr(conclusion, "_final_model", fails)
    else:
        monkeypatch.setattr("keeltune.training.trainer.KeelTrainer.compute_loss", fails)
    with pytest.raises(Exception, match="a fault"):
        trained(spec, tmp_path, "mlflow")
    assert calls.names()[-1] == "end_run"
    assert "set_tag" not in calls.names()


def test_scores_of_both_domains_are_named_as_those_of_a_test_set():
    metrics = {"test": {"f1": 0.5, "by_label": {}}, "source": {"before": {"f1": 0.7}, "after": {"f1": 0.6}}}
    assert tracking.scores_of({"metrics": metrics}) == {
        "test_f1": 0.5, "test_source_f1": 0.6, "test_source_before_f1": 0.7,
    }  # fmt: skip


def test_nested_values_are_flat():
    assert tracking.flat({"a": {"b": 1, "c": {"d": None}}, "e": [1, 2]}) == {"a.b": 1, "a.c.d": None, "e": "[1, 2]"}
