"""Runs from recipe to folder: the three methods on small models, what they write, and what they refuse."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from keeltune import recipe
from keeltune.objective.formula import Counts
from keeltune.runs import run_folder
from keeltune.training import build
from keeltune.training.preparation import prepare
from keeltune.utils.errors import UserError
from tests.helpers.models import save_tiny, word_tokenizer
from tests.helpers.runs import (
    encoder,
    furthest,
    lines,
    make_data,
    other_order,
    other_tokenizer,
    several,
    spec_of,
    stock_probabilities,
    train,
    weights,
    write_rows,
)

KEYS = {
    "": {"keeltune", "task", "method", "status", "metrics", "intervals", "objective", "reference", "training", "data",
         "environment", "veto", "budget", "interpolation", "forgetting", "abilities", "overfitting", "calibration",
         "bias", "seeds", "audit", "scoring", "generation", "inference", "digests", "defaults"},
    "metrics": {"validation", "test", "source", "before"},
    "metrics.source": {"before", "after"},
    "metrics.before": {"validation", "test"},
    "intervals": {"validation", "test", "source"},
    "intervals.source": {"before", "after"},
    "objective": {"cross_entropy", "divergence", "weight", "divergence_name", "temperature"},
    "reference": {"kind", "models", "cache", "reason", "gate"},
    "training": {"seconds", "steps", "examples", "examples_per_second", "tokens_per_second", "predictions_per_second",
                 "padding_share", "precision", "peak_memory_bytes", "seed", "world_size",
                 "trained_parameters", "parameters", "lora", "stored"},
}  # fmt: skip
"""The keys of `result.json`; the last four of `training` are ours beyond the contract."""


@pytest.fixture
def data(tmp_path) -> Path:
    return make_data(tmp_path)


def check_folder(finished: run_folder.Run, folder: Path, labels: list[str], multi_label: bool = False) -> None:
    """What every finished run owes its reader."""
    result = json.loads((finished.folder / "result.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert result == finished.result
    for path, keys in KEYS.items():
        part = result
        for name in path.split(".") if path else []:
            part = part[name]
        assert set(part) == keys, path
    assert result["status"] == "completed"
    assert {"python", "torch", "transformers", "device"} <= set(result["environment"])
    for file in ("recipe.yaml", "report.html", "log.jsonl", "model/README.md", "model/config.json"):
        assert (finished.folder / file).stat().st_size > 0
    recipe.load(finished.folder / "recipe.yaml")
    given, predicted = lines(folder / "test.jsonl"), lines(finished.folder / "predictions" / "test.jsonl")
    assert [line["row"] for line in predicted] == list(range(1, len(given) + 1))
    assert all(
        set(p) == {"key", "row", "prediction", "gold", "score", "loss", "predictions", "probabilities"}
        for p in predicted
    )
    assert [p["gold"] for p in predicted] == [row["label"] for row in given]
    assert len({p["key"] for p in predicted}) == len(given)
    table = np.array([list(p["probabilities"].values()) for p in predicted])
    assert all(list(p["probabilities"]) == labels for p in predicted)
    stock = stock_probabilities(finished.model, [row["text"] for row in given], multi_label)
    np.testing.assert_allclose(table, stock, atol=1e-5)
    for split in ("validation", "test"):
        intervals = result["intervals"][split]
        for name, value in result["metrics"][split].items():
            if name != "by_label":
                assert intervals[name][0] <= value <= intervals[name][1]
                assert np.isfinite(value)


def check_scores(finished: run_folder.Run) -> None:
    """The single-label metrics of the test split, from its predictions alone."""
    predicted = lines(finished.folder / "predictions" / "test.jsonl")
    gold, chosen = ([p[name] for p in predicted] for name in ("gold", "prediction"))
    losses = [-math.log(p["probabilities"][p["gold"]]) for p in predicted]
    metrics = finished.result["metrics"]["test"]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(gold, chosen), abs=1e-12)
    assert metrics["macro_f1"] == pytest.approx(f1_score(gold, chosen, average="macro"), abs=1e-12)
    if "mcc" in metrics:
        assert metrics["mcc"] == pytest.approx(matthews_corrcoef(gold, chosen), abs=1e-12)
    assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert all(p["score"] == float(p["gold"] == p["prediction"]) for p in predicted)


# One run a method


def test_fine_tuning(tiny, data):
    finished = train(spec_of("fine-tuning", tiny("bert"), task="text-classification"), data)
    check_folder(finished, data, ["negative", "positive"])
    check_scores(finished)
    result = finished.result
    assert result["reference"] == {"kind": "none", "models": [], "cache": None, "reason": None, "gate": None}
    assert [result["objective"][k] for k in ("divergence", "weight", "divergence_name", "temperature")] == [None] * 4
    assert result["metrics"]["source"] == {"before": None, "after": None}
    assert result["training"]["steps"] == 3
    assert result["training"]["examples"] == 24
    assert {s: d["rows"] for s, d in result["data"].items() if d and s != "skipped"} == {
        "train": 24, "validation": 12, "test": 20
    }  # fmt: skip
    for split in ("validation", "test"):  # the head knew these labels before
        assert (finished.folder / "predictions" / "before" / f"{split}.jsonl").is_file()
        assert result["metrics"]["before"][split]["loss"] != result["metrics"][split]["loss"]
    entries = [entry for entry in lines(finished.folder / "log.jsonl") if "loss" in entry]
    assert len(entries) == 3
    mean = sum(e["cross_entropy"] for e in entries) / 3
    assert result["objective"]["cross_entropy"] == pytest.approx(mean, rel=1e-3)
    assert all(e["loss"] == pytest.approx(e["cross_entropy"], rel=1e-3) for e in entries)


def test_distillation_with_a_pool(tiny, data):
    """Trap 18: the reference reaches the loss, on labelled and on unlabelled rows."""
    spec = spec_of("distillation", tiny("bert"), reference=str(tiny("bert", seed=5)))
    spec["data"] |= {"unlabeled": "pool.jsonl"}
    spec["objective"] = {"weight": 2.5}
    finished = train(spec, data)
    check_folder(finished, data, ["negative", "positive"])
    check_scores(finished)
    assert finished.result["reference"]["kind"] == "model"
    assert finished.result["reference"]["models"] == [os.path.relpath(tiny("bert", seed=5), finished.folder)]
    assert finished.result["objective"]["weight"] == 2.5
    assert finished.result["objective"]["divergence_name"] == "reverse-kl"
    entries = [entry for entry in lines(finished.folder / "log.jsonl") if "loss" in entry]
    assert len(entries) == 3
    for entry in entries:
        assert entry["divergence"] > 0
        assert entry["loss"] == pytest.approx(entry["cross_entropy"] + 2.5 * entry["divergence"], rel=1e-3)
    alone = train(spec_of("fine-tuning", tiny("bert"), output="alone"), data)
    assert furthest(finished, alone) > 1e-3


def test_cross_domain(tiny, data):
    spec = spec_of("cross-domain", tiny("bert"))
    spec["data"] |= {"source": {"test": "old.jsonl"}}
    job = build.build(prepare.prepare(recipe.from_dict(spec, data)))
    batch = job.material.task.collate(job.plan.micro_batch(0, 0, 0))
    student = job.material.task.rows(job.model.eval()(**batch["inputs"]), batch)
    cross_entropy = job.material.task.cross_entropy(student, batch)
    terms = job.objective(cross_entropy, student, job.reference.rows(batch), batch["anchored"], counts=Counts(8, 8))
    assert batch["anchored"].all()
    assert terms.divergence.item() == pytest.approx(0, abs=1e-6)
    assert terms.loss.item() == pytest.approx(terms.cross_entropy.item() / 8, rel=1e-5)

    finished = train(spec, data)
    check_folder(finished, data, ["negative", "positive"])
    result = finished.result
    assert result["objective"]["weight"] == pytest.approx(2 / math.log(0.999 / 0.001), rel=1e-12)
    assert result["objective"]["divergence"] > 0
    models = [os.path.relpath(tiny("bert"), finished.folder)]
    expected = {"kind": "model", "models": models, "cache": None, "reason": None, "gate": None}
    assert {**result["reference"], "reason": None} == expected
    before, after = result["metrics"]["source"]["before"], result["metrics"]["source"]["after"]
    assert before["loss"] != after["loss"]
    for folder, expected in (("predictions/before", before), ("predictions", after)):
        predicted = lines(finished.folder / folder / "source.jsonl")
        golds = [row["label"] for row in lines(data / "old.jsonl")]
        assert accuracy_score(golds, [p["prediction"] for p in predicted]) == pytest.approx(expected["accuracy"])
    stock = stock_probabilities(tiny("bert"), [row["text"] for row in lines(data / "old.jsonl")])
    found = [list(p["probabilities"].values()) for p in lines(finished.folder / "predictions/before/source.jsonl")]
    np.testing.assert_allclose(found, stock, atol=1e-5)


def test_a_strong_weight_holds_the_model_at_its_reference(tiny, data):
    spec = spec_of("cross-domain", tiny("bert"))
    spec["training"] |= {"learning_rate": 3e-3}
    held = train(spec, data, output="held", objective={"weight": 100.0})
    free = train(spec, data, output="free", objective={"weight": 0.0})
    assert 0 < held.result["objective"]["divergence"] < free.result["objective"]["divergence"]


def test_a_decoder(tiny, data):
    """GPT-2 has no padding token; its reference is a BERT that reads text in another encoding."""
    spec = spec_of("distillation", tiny("gpt2"), reference=str(tiny("bert")))
    finished = train(spec, data)
    check_folder(finished, data, ["negative", "positive"])
    check_scores(finished)
    assert finished.result["objective"]["divergence"] > 0
    tokenizer = AutoTokenizer.from_pretrained(finished.model)
    assert (tokenizer.pad_token, len(tokenizer)) == ("[CLS]", 25)
    config = AutoModelForSequenceClassification.from_pretrained(finished.model).config
    assert (config.pad_token_id, config.vocab_size) == (tokenizer.pad_token_id, 25)


# References


def test_equal_references_train_equal_students(tiny, data):
    """Labels in another order, another tokenizer, two equal teachers: the same distribution, so the same student."""
    teacher = tiny("bert", seed=5)
    spec = spec_of("distillation", tiny("bert"), reference=str(teacher))
    spec["data"] = {"train": "train.jsonl", "unlabeled": "pool.jsonl"}
    plain = train(spec, data)
    turned = train(spec, data, output="turned", reference=str(other_order(teacher, data / "turned-teacher")))
    assert furthest(plain, turned) < 1e-6
    read_otherwise = str(other_tokenizer(teacher, data / "other-teacher"))
    assert furthest(plain, train(spec, data, output="other", reference=read_otherwise)) < 1e-6
    pair = train(spec, data, output="pair", reference=[str(teacher), str(data / "turned-teacher")])
    assert pair.result["reference"]["kind"] == "ensemble"
    assert len(pair.result["reference"]["models"]) == 2
    assert furthest(plain, pair) < 1e-6
    assert furthest(plain, train(spec, data, output="third", reference=str(tiny("bert", seed=6)))) > 1e-4


@pytest.mark.parametrize("labels", [("bad", "good"), ("negative", "neutral", "positive")])
def test_a_reference_with_other_labels_is_refused(tiny, data, labels):
    spec = spec_of("distillation", tiny("bert"), reference=str(tiny("bert", labels)))
    with pytest.raises(UserError, match=", ".join(labels)) as refused:
        train(spec, data)
    assert "negative, positive" in str(refused.value)
    assert refused.value.exit_status == 2
    assert not (data / "out").exists()


@pytest.mark.parametrize("method", ["cross-domain", "distillation"])
def test_a_reference_without_a_trained_head_is_refused(tiny, data, method):
    model = encoder(data / "encoder", tiny)
    spec = spec_of(method, model if method == "cross-domain" else tiny("bert"), reference=str(model))
    with pytest.raises(UserError, match=r"classifier\.bias, classifier\.weight") as refused:
        train(spec, data)
    assert refused.value.exit_status == 2


def test_a_new_head_has_no_before(tiny, data):
    finished = train(spec_of("fine-tuning", encoder(data / "encoder", tiny)), data)
    check_folder(finished, data, ["negative", "positive"])
    assert finished.result["metrics"]["before"] == {"validation": None, "test": None}
    assert not (finished.folder / "predictions" / "before").exists()


def test_a_head_of_other_labels_starts_anew(tiny, data):
    other = save_tiny(data / "other", labels=("spam", "ham"))
    finished = train(spec_of("fine-tuning", other), data)
    check_folder(finished, data, ["negative", "positive"])
    assert not (finished.folder / "predictions" / "before").exists()


# LoRA


@pytest.mark.parametrize("method", ["cross-domain", "distillation"])
def test_lora(tiny, data, method):
    reference = {} if method == "cross-domain" else {"reference": str(tiny("bert", seed=5))}
    spec = spec_of(method, tiny("bert"), **reference)
    spec["training"] |= {"lora": {"rank": 4}}
    finished = train(spec, data)
    check_folder(finished, data, ["negative", "positive"])
    assert finished.result["reference"]["kind"] == ("adapter-off" if method == "cross-domain" else "model")
    assert finished.result["objective"]["divergence"] > 0
    counts = finished.result["training"]
    assert counts["trained_parameters"] < 0.5 * counts["parameters"]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        p.name for p in (finished.folder / "adapter").iterdir()
    }
    before, after = load_file(tiny("bert") / "model.safetensors"), weights(finished)
    assert before.keys() == after.keys()
    assert torch.equal(
        before["bert.embeddings.word_embeddings.weight"], after["bert.embeddings.word_embeddings.weight"]
    )
    assert not torch.equal(
        before["bert.encoder.layer.0.output.dense.weight"], after["bert.encoder.layer.0.output.dense.weight"]
    )


# Data


def test_several_labels_a_row(tiny, data):
    for name in ("train", "validation", "test"):
        write_rows(data / f"{name}.jsonl", several(lines(data / f"{name}.jsonl")))
    spec = spec_of("fine-tuning", tiny("bert"), task="text-classification")
    spec["data"] |= {"multi_label": True}
    first = train(spec, data)
    check_folder(first, data, ["glad", "lengthy"], multi_label=True)
    predicted = lines(first.folder / "predictions" / "test.jsonl")
    y, p = (
        [[int(x in line[name]) for x in ("glad", "lengthy")] for line in predicted] for name in ("gold", "prediction")
    )
    metrics = first.result["metrics"]["test"]
    assert metrics["micro_f1"] == pytest.approx(f1_score(y, p, average="micro", zero_division=0))
    assert metrics["macro_f1"] == pytest.approx(f1_score(y, p, average="macro", zero_division=0))
    assert metrics["accuracy"] == pytest.approx(accuracy_score(y, p))
    table = np.clip([list(line["probabilities"].values()) for line in predicted], 1e-12, 1)
    loss = -np.where(np.array(y) == 1, np.log(table), np.log1p(-table)).mean()
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    config = json.loads((first.model / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    second = train(spec, data, output="held", method="cross-domain", model=str(first.folder))
    assert second.result["objective"]["divergence"] > 0
    single = spec_of("distillation", tiny("bert", ("glad", "lengthy")), reference=str(first.folder), output="mixed")
    for name in ("train", "validation", "test"):
        write_rows(
            data / f"{name}.jsonl", [{**r, "label": (r["label"] or ["glad"])[0]} for r in lines(data / f"{name}.jsonl")]
        )
    with pytest.raises(UserError, match="multi_label_classification"):
        train(single, data)


def test_class_weights(tiny, data):
    rows = lines(data / "train.jsonl")
    write_rows(data / "train.jsonl", [row for i, row in enumerate(rows) if row["label"] == "negative" or i % 3 == 0])
    labels = [row["label"] for row in lines(data / "train.jsonl")]
    balanced = {name: len(labels) / (2 * labels.count(name)) for name in ("negative", "positive")}
    spec = spec_of("fine-tuning", tiny("bert"))
    found = train({**spec, "data": spec["data"] | {"class_weights": "balanced"}}, data)
    given = train({**spec, "data": spec["data"] | {"class_weights": balanced}}, data, output="given")
    assert furthest(found, given) == 0
    assert furthest(found, train(spec, data, output="plain")) > 1e-4
    predicted = lines(found.folder / "predictions" / "test.jsonl")
    total = sum(-balanced[p["gold"]] * math.log(p["probabilities"][p["gold"]]) for p in predicted)
    mean = total / sum(balanced[p["gold"]] for p in predicted)
    assert found.result["metrics"]["test"]["loss"] == pytest.approx(mean, rel=1e-5)


def test_bad_rows_are_skipped_counted_and_listed(tiny, data):
    rows = lines(data / "train.jsonl")
    clean = train(spec_of("fine-tuning", tiny("bert"), output="clean"), data)
    bad = [{"text": "", "label": "negative"}, {"label": "positive"}, {"text": 7, "label": "negative"}]
    write_rows(data / "train.jsonl", [bad[0], *rows[:10], bad[1], *rows[10:], bad[2]])
    spec = spec_of("fine-tuning", tiny("bert"))
    with pytest.raises(UserError) as refused:
        train(spec, data)
    assert len([p for p in refused.value.problems if p.severity == "error"]) == 3
    spec["data"] |= {"bad_rows": "skip"}
    finished = train(spec, data)
    assert finished.result["data"]["skipped"] == 3
    assert finished.result["data"]["train"] == clean.result["data"]["train"]
    listed = lines(finished.folder / "skipped.jsonl")
    assert sorted(int(line["where"].rsplit(":", 1)[1]) for line in listed) == [1, 12, 27]
    assert furthest(finished, clean) == 0


def test_a_student_of_some_layers(tiny, data):
    spec = spec_of("distillation", tiny("bert"), reference=str(tiny("bert")))
    finished = train(spec, data, model={"from": str(tiny("bert")), "layers": 1})
    check_folder(finished, data, ["negative", "positive"])
    assert json.loads((finished.model / "config.json").read_text())["num_hidden_layers"] == 1


def test_a_half_precision_source_gives_a_half_precision_model(tiny, data):
    half = AutoModelForSequenceClassification.from_pretrained(tiny("bert")).half()
    half.save_pretrained(data / "half")
    word_tokenizer().save_pretrained(data / "half")
    finished = train(spec_of("fine-tuning", data / "half"), data)
    assert {w.dtype for w in weights(finished).values()} == {torch.float16}


def test_a_run_is_shown_in_a_line(tiny, data):
    finished = train(spec_of("fine-tuning", tiny("bert")), data)
    accuracy = finished.result["metrics"]["test"]["accuracy"]
    assert repr(finished) == f"Run('{finished.folder}': sentiment-analysis, fine-tuning, test accuracy {accuracy:.4f})"
