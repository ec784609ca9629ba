"""Defaults that depend on what there is: what is decided, what is not, and what a run that goes on keeps."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from keeltune import recipe
from keeltune.runs import run
from keeltune.training import build, run_identity
from keeltune.training.arguments import training_arguments
from keeltune.training.new_weights import NewWeights
from keeltune.training.preparation import defaults, prepare
from keeltune.training.preparation.sizes import Sizes
from tests.helpers.command import keeltune
from tests.helpers.interruption import Killed, kill_at, same
from tests.helpers.models import WORDS
from tests.helpers.runs import QUIET, encoder, write_rows

NAMES = [f"class {n}" for n in range(10)]


def rows_of_ten(count: int, seed: int = 0) -> list[dict]:
    """Texts of which one word tells the class."""
    drawn, rows = random.Random(seed), {}
    while len(rows) < count:
        kind = len(rows) % 10
        words = [*drawn.choices(WORDS[10:], k=drawn.randint(6, 9)), WORDS[kind]]
        rows[" ".join(drawn.sample(words, len(words)))] = NAMES[kind]
    return [{"text": text, "label": label} for text, label in rows.items()]


@pytest.fixture
def five_lines(tiny, tmp_path) -> dict:
    """The recipe that names task, method, model, rows and output, on 400 rows of ten classes and a model without a
    head."""
    write_rows(tmp_path / "train.jsonl", rows_of_ten(400))
    write_rows(tmp_path / "test.jsonl", rows_of_ten(100, seed=1))
    return {
        "task": "text-classification", "method": "fine-tuning", "model": str(encoder(tmp_path / "encoder", tiny)),
        "data": {"train": "train.jsonl", "test": "test.jsonl"}, "output": "out",
    }  # fmt: skip


def prepared(spec: dict, folder: Path, **training):
    return prepare.prepare(recipe.from_dict({**spec, "training": training}, folder))


def test_a_new_head_on_few_rows_gets_epochs_a_rate_and_validation_rows(five_lines, tmp_path):
    material = prepared(five_lines, tmp_path)
    training = material.recipe.training
    assert (len(material.rows["train"]), len(material.rows["validation"])) == (360, 40)
    assert (training.epochs, material.steps) == (20, 220)
    assert training.rates == (5e-4, 5e-3)  # 16 wide: the most there is
    assert {*material.defaults} == {
        "data.validation", "training.epochs", "training.learning_rate", "training.head_learning_rate"
    }  # fmt: skip
    assert "220 steps for a new head: 3 epochs would be 33" in material.defaults["training.epochs"].reason
    assert any("training.epochs 20" in notice for notice in material.notices)  # which `check` prints


@pytest.mark.parametrize(
    ("rows", "batch", "epochs"),
    [(20, 32, 200), (400, 32, 20), (400, 4, 10), (1000, 4, 4), (2000, 4, 3)],
)
def test_the_floor_of_steps(five_lines, tmp_path, rows, batch, epochs):
    write_rows(tmp_path / "train.jsonl", rows_of_ten(rows))
    five_lines["data"]["validation"] = None
    material = prepared(five_lines, tmp_path, batch_size=batch)
    assert material.recipe.training.epochs == epochs
    assert material.steps >= defaults.FEWEST


def test_a_model_too_large_for_an_ordinary_machine_keeps_its_epochs(five_lines, tmp_path, monkeypatch):
    whole = prepared(five_lines, tmp_path)
    of_step = defaults._operations_of_step(whole)
    body = sum(p.numel() for n, p in build.build(whole).model.named_parameters() if "embeddings.word" not in n
               and "embeddings.position" not in n and "embeddings.token_type" not in n)  # fmt: skip
    lengths = [example.length for example in whole.main_stream]
    assert of_step == pytest.approx(6 * body * 32 * sum(lengths) / len(lengths), rel=0.02)  # the head has more labels
    monkeypatch.setattr(defaults, "OPERATIONS", 120 * of_step)
    assert prepared(five_lines, tmp_path).recipe.training.epochs == 10  # of 11 steps each
    monkeypatch.setattr(defaults, "OPERATIONS", of_step)
    assert prepared(five_lines, tmp_path).recipe.training.epochs == 3


@pytest.mark.parametrize(("width", "rate"), [(128, 3e-4), (384, 1e-4), (768, 5e-5), (1024, 4e-5), (8192, 1e-5)])
def test_a_wider_model_learns_more_slowly(five_lines, tmp_path, monkeypatch, width, rate):
    whole = prepared(five_lines, tmp_path)
    monkeypatch.setattr(defaults, "student_sizes", lambda material: Sizes(10, 5, 1, width))
    assert defaults._rate(whole, new_head=True).value == rate
    assert defaults._rate(whole, new_head=False).value == 5e-5


def test_what_is_named_stands(five_lines, tmp_path):
    material = prepared(five_lines, tmp_path, epochs=2, learning_rate=1e-3)
    assert (material.recipe.training.epochs, material.recipe.training.rates) == (2, (1e-3, 1e-3))
    assert not any("head_learning_rate" in notice for notice in material.notices)  # nobody asks for one rate twice
    assert prepared(five_lines, tmp_path, head_learning_rate=1e-2).recipe.training.rates == (5e-4, 1e-2)
    assert prepared(five_lines, tmp_path, max_steps=7).steps == 7
    five_lines["data"]["validation"] = None
    assert not prepared(five_lines, tmp_path).rows["validation"]


def test_a_trained_head_is_refined_and_every_method_trains_as_long(tiny, tmp_path):
    write_rows(tmp_path / "train.jsonl", [{"text": row["text"], "label": ["negative", "positive"][n % 2]}
                                          for n, row in enumerate(rows_of_ten(200))])  # fmt: skip
    data = {"train": "train.jsonl"}
    for start in (tiny("bert"), encoder(tmp_path / "encoder", tiny)):
        spec = {"task": "sentiment-analysis", "model": str(start), "data": data, "output": "out"}
        plain = prepared({**spec, "method": "fine-tuning"}, tmp_path)
        taught = prepared({**spec, "method": "distillation", "reference": str(tiny("bert", seed=3))}, tmp_path)
        found = [(m.steps, m.recipe.training.rates, len(m.rows["validation"])) for m in (plain, taught)]
        assert found[0] == found[1]
        if start == tiny("bert"):
            assert found[0] == (3 * 5, (5e-5, 5e-5), 40)
            anchored = prepared({**spec, "method": "cross-domain"}, tmp_path)
            assert (anchored.steps, anchored.recipe.training.rates) == found[0][:2]
        else:
            assert found[0] == (200, (5e-4, 5e-3), 40)


def test_a_model_from_nothing_has_one_rate(tmp_path):
    write_rows(tmp_path / "train.jsonl", rows_of_ten(100))
    new = {"new": {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "intermediate_size": 16}, "tokenizer": {"train": "bpe", "size": 120}}  # fmt: skip
    spec = {"task": "text-classification", "method": "fine-tuning", "model": new, "data": {"train": "train.jsonl"},
            "output": "out"}  # fmt: skip
    assert prepared(spec, tmp_path).recipe.training.rates == (5e-4, 5e-4)


def test_only_the_head_has_the_head_s_rate(five_lines, tmp_path):
    for lora in (None, {"rank": 2}):
        job = build.build(prepared(five_lines, tmp_path, lora=lora))
        optimizer = torch.optim.AdamW([p for p in job.model.parameters() if p.requires_grad], lr=5e-5)
        NewWeights(tuple(job.student.fresh), 5e-4).set_rate(optimizer, job.model)
        names = {id(p): name for name, p in job.model.named_parameters()}
        rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert len(rates) == sum(p.requires_grad for p in job.model.parameters())
        assert {name for name, rate in rates.items() if rate == 5e-4} == {n for n in rates if "classifier" in n}


def test_a_short_run_is_logged_often_enough_to_be_judged(tmp_path):
    steps = [training_arguments(tmp_path, recipe.fields.Training(), batch_size=1, every=None, seed=0, steps=n)
             .logging_steps for n in (10, 36, 150, 300, 5000)]  # fmt: skip
    assert steps == [1, 1, 5, 10, 10]


def test_the_recipe_as_it_was_is_called_undertrained_to_the_last_line(five_lines, tmp_path, monkeypatch, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({**five_lines, "training": {"epochs": 3, "learning_rate": 5e-5}}))
    assert keeltune(monkeypatch, "train", file) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    lights = {signal["name"]: signal["light"] for signal in result["overfitting"]["signals"]}
    assert lights["undertrained"] == "red"
    assert "learnt" not in lights or lights["learnt"] != "green"
    last = capsys.readouterr().out.splitlines()[-6:]
    assert any("undertrained" in line or "nothing was learnt" in line for line in last)
    assert result["defaults"]["data.validation"]["value"] == 40


def test_a_run_of_before_goes_on_as_it_began(five_lines, tmp_path):
    """One that was started when epochs were 3, all weights had one rate and no validation rows were taken."""
    now = {**five_lines, "training": {"precision": "fp32", "save_steps": 10, "save_strategy": "steps"}}
    then = {**now, "data": {**five_lines["data"], "validation": None},
            "training": {**now["training"], "epochs": 3, "learning_rate": 5e-5}}  # fmt: skip
    whole = run.train(recipe.from_dict({**then, "output": "whole"}, tmp_path), display=QUIET)
    of_now = run_identity.identity_of

    def of_then(material):
        identity = of_now(material)
        identity["recipe"]["training"].pop("head_learning_rate")
        return identity

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_identity, "identity_of", of_then)
        kill_at(patch, 20)
        run.train(recipe.from_dict(then, tmp_path), display=QUIET)
    finished = run.train(recipe.from_dict(now, tmp_path), resume=True, display=QUIET)
    assert finished.result["training"]["steps"] == 36
    assert same(finished.folder, whole.folder)


def test_a_run_that_goes_on_keeps_what_was_decided(five_lines, tmp_path, monkeypatch):
    spec = {**five_lines, "training": {"save_steps": 5, "save_strategy": "steps", "precision": "fp32"}}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 8)
        run.train(recipe.from_dict(spec, tmp_path), display=QUIET)
    monkeypatch.setattr(defaults, "NEW_HEAD_EPOCHS", 40)  # a later keeltune
    monkeypatch.setattr(defaults, "HEAD", 3)
    finished = run.train(recipe.from_dict(spec, tmp_path), resume=True, display=QUIET)
    again = recipe.load(finished.folder / "recipe.yaml")
    assert (again.training.epochs, again.training.rates) == (20, (5e-4, 5e-3))
