"""Evaluation cadence, the best weights, early stopping, and what the Trainer is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from keeltune import recipe
from keeltune.cli.demo_data import make_reviews
from keeltune.evaluation import prediction
from keeltune.recipe.training_fields import Training
from keeltune.runs import run, run_folder
from keeltune.training import checkpoints
from keeltune.training.arguments import training_arguments
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.errors import Diverged
from keeltune.utils.progress import Display

QUIET = Display(quiet=True)


@pytest.fixture
def spec(tiny, tmp_path):
    rows = make_reviews("films", 60, seed=2)
    for name, part in (("train", rows[:40]), ("validation", rows[40:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return {
        "task": "sentiment-analysis",
        "method": "fine-tuning",
        "model": str(tiny("bert")),
        "data": {"train": "train.jsonl", "validation": "validation.jsonl"},
        "training": {"epochs": 5, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32"},
        "output": "out",
    }


def with_scores(monkeypatch: pytest.MonkeyPatch, scores: list[tuple[float, float]]) -> dict[int, dict]:
    """Validation gives these (accuracy, loss) in turn; returns the weights at each evaluation, by its number from 1."""
    weights: dict[int, dict] = {}
    original = KeelTrainer.evaluate

    def scripted(self, *args, **kwargs):
        number = len(weights) + 1
        weights[number] = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        accuracy, loss = scores[number - 1]
        self.validate = lambda: {"accuracy": accuracy, "macro_f1": 0.0, "loss": loss}
        return original(self, *args, **kwargs)

    monkeypatch.setattr(KeelTrainer, "evaluate", scripted)
    return weights


def train(spec: dict, folder: Path, **training) -> run_folder.Run:
    values = {**spec, "training": {**spec["training"], **training}}
    return run.train(recipe.from_dict(values, folder), display=QUIET)


def saved(finished: run_folder.Run) -> dict[str, torch.Tensor]:
    return load_file(finished.folder / "model" / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(0.5, 1.0), (0.9, 1.0), (0.6, 1.0), (0.6, 1.0), (0.6, 1.0)], 2),  # the primary metric decides
        ([(0.5, 1.0), (0.9, 1.0), (0.9, 0.5), (0.9, 0.7), (0.6, 0.1)], 3),  # a tie: the lower loss
        ([(0.9, 1.0), (0.9, 1.0), (0.9, 1.0), (0.9, 1.0), (0.9, 1.0)], 1),  # a full tie: the earlier
    ],
)
def test_the_best_weights_are_exported_and_never_rotated_away(spec, tmp_path, monkeypatch, scores, best):
    weights = with_scores(monkeypatch, scores)
    finished = train(spec, tmp_path, save_total_limit=1, keep_checkpoints=True)
    assert len(weights) == 5
    assert len(list((tmp_path / "out" / "checkpoints").glob("checkpoint-*"))) == 1
    assert equal(saved(finished), weights[best])


def test_without_validation_the_last_weights_are_exported(spec, tmp_path, monkeypatch):
    last = {}
    original = prediction.predict

    def noting(model, *args, **kwargs):
        last.update({k: v.detach().clone() for k, v in model.state_dict().items()})
        return original(model, *args, **kwargs)

    monkeypatch.setattr(prediction, "predict", noting)
    spec["data"] = {"train": "train.jsonl", "test": "validation.jsonl"}
    finished = train(spec, tmp_path)
    assert finished.result["metrics"]["validation"] is None
    assert equal(saved(finished), last)


def test_early_stopping_counts_evaluations_without_a_gain(spec, tmp_path, monkeypatch):
    spec["evaluation"] = {"patience": 2}
    weights = with_scores(monkeypatch, [(0.5, 1.0), (0.9, 1.0), (0.6, 1.0), (0.7, 1.0), (0.95, 1.0)])
    finished = train(spec, tmp_path)
    assert len(weights) == 4
    assert finished.result["training"]["steps"] == 20
    assert finished.result["status"] == "completed"
    assert equal(saved(finished), weights[2])


def test_where_the_guard_may_end_a_training_the_mean_of_two_evaluations_is_kept(spec, tmp_path, monkeypatch):
    """A training that ends early has not seen its schedule's low rates: the mean of its weights does instead."""
    own = with_scores(monkeypatch, [(0.5, 1.0), (0.6, 1.0), (0.9, 1.0), *[(0.7, 1.0)] * 9])
    kept, keep = [], checkpoints.BestWeights.save

    def keeping(self, model, step):
        kept.append({k: v.detach().clone() for k, v in model.state_dict().items()})
        keep(self, model, step)

    monkeypatch.setattr(checkpoints.BestWeights, "save", keeping)
    finished = train(spec, tmp_path, epochs=12)
    assert len(own) == 8  # the third is the best, five without a gain follow
    assert equal(kept[0], own[1])  # before the first evaluation there is none
    for number, found in ((2, kept[1]), (3, kept[2])):
        for name, weight in own[number].items():
            mean = (own[number - 1][name].double() + weight.double()) / 2
            torch.testing.assert_close(found[name].double(), mean, atol=1e-7, rtol=1e-6)
    assert not equal(kept[2], own[3])
    assert equal(saved(finished), kept[2])
    assert finished.result["overfitting"]["averaged"]
    assert "mean of the weights of two evaluations" in (finished.folder / "report.html").read_text("utf-8")


def test_evaluations_come_every_so_many_steps_and_after_the_last(spec, tmp_path):
    spec["evaluation"] = {"every": 4}
    train(spec, tmp_path, epochs=2)
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "eval_accuracy" in entry] == [4, 8, 10]


def test_a_part_of_the_validation_rows_while_training_all_of_them_at_the_end(spec, tmp_path, monkeypatch):
    sizes = []
    original = prediction.predict

    def counting(model, task, examples, **how):
        sizes.append(len(examples))
        return original(model, task, examples, **how)

    monkeypatch.setattr(prediction, "predict", counting)
    spec["evaluation"] = {"rows": 6, "every": 5}
    train(spec, tmp_path, epochs=2)
    assert sizes == [20, 6, 6, 20, 40]  # before, each epoch, the result, the rows that were learnt


def test_a_loss_that_is_no_number_stops_the_run_before_an_update(spec, tmp_path, monkeypatch):
    original = KeelTrainer.compute_loss
    at = {}

    def poisoned(self, model, inputs, *args, **kwargs):
        if self.state.global_step == 2 and not at:
            at.update({k: v.detach().clone() for k, v in self.model.state_dict().items()})
            inputs = {**inputs, "weights": inputs["weights"] * float("nan")}
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(KeelTrainer, "compute_loss", poisoned)
    with pytest.raises(Diverged, match=r"step 3: the loss is nan .* no update was made"):
        train(spec, tmp_path)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["status"] == "diverged"


def test_the_defaults_are_those_of_the_design_unless_given(tmp_path):
    how = {"batch_size": 4, "every": 3, "seed": 7}
    asked = {"gradient_accumulation_steps": 2, "epochs": 3, "learning_rate": 1e-4}
    ours = training_arguments(tmp_path, Training(**asked), **how)
    assert (ours.weight_decay, ours.warmup_steps, ours.max_grad_norm) == (0.01, 0.1, 1.0)
    assert ours.lr_scheduler_type == "linear"
    assert ours.optim.startswith("adamw_torch")
    assert not (ours.bf16 or ours.fp16)
    assert (ours.save_strategy, ours.save_steps, ours.save_total_limit) == ("steps", 3, 2)
    assert training_arguments(tmp_path, Training(**asked), **{**how, "every": None}).save_strategy == "no"
    theirs = training_arguments(tmp_path, Training(**asked, weight_decay=0.3, save_steps=5), **how)
    assert (theirs.weight_decay, theirs.save_strategy, theirs.save_steps) == (0.3, "steps", 5)


def test_gradient_checkpointing_changes_nothing(spec, tmp_path):
    """With a reference that switches the adapter off: backward runs the forward pass again and must meet its mode."""
    spec |= {"method": "cross-domain"}
    spec["training"] |= {"lora": {"rank": 2, "dropout": 0.1}, "epochs": 1}
    plain = saved(train(spec, tmp_path))
    checkpointed = saved(train({**spec, "output": "again"}, tmp_path, activation_checkpointing=True))
    assert all(torch.allclose(plain[k], checkpointed[k], atol=1e-6) for k in plain)


def test_trackers_through_report_to(spec, tmp_path):
    pytest.importorskip("tensorboard", reason="comes with keeltune[tracking]")
    train(spec, tmp_path, epochs=1, report_to="tensorboard")
    assert list((tmp_path / "out").rglob("events.out.tfevents.*"))
