"""Two domains: what carries the divergence, what a budget holds, where weights may lie between, what was forgotten."""

from __future__ import annotations

import io
import json
import math
import random
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import binomtest
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification

from keeltune import recipe
from keeltune.cli import row_journey
from keeltune.data.clusters import numbers_of
from keeltune.evaluation import bootstrap, domain_shift, forgetting, overruled_labels, slices
from keeltune.evaluation.interpolation import Interpolation as WeightPath
from keeltune.evaluation.interpolation import largest_within, recommended
from keeltune.models import sealed_model
from keeltune.objective.formula import Counts, Objective
from keeltune.objective.predictions import IGNORED, Coarse, Dense
from keeltune.objective.references.model import Model
from keeltune.reports import charts, comparison_page
from keeltune.runs import comparison, run, run_folder
from keeltune.training import build
from keeltune.training.budget import DualAscent
from keeltune.training.job import Job
from keeltune.training.preparation import prepare
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from keeltune.utils.terminal import Terminal
from tests.helpers import wide
from tests.helpers.domains import spec
from tests.helpers.families import by_turns
from tests.helpers.interruption import copy_at
from tests.helpers.models import BODY, word_tokenizer
from tests.helpers.pages import check_chinese, check_page
from tests.helpers.runs import (
    furthest,
    lines,
    make_data,
    reviews,
    spec_of,
    stock_probabilities,
    train,
    weights,
    write_rows,
)

QUIET = Display(quiet=True)


@pytest.fixture
def data(tmp_path):
    """The rows of test_run, and an old domain: labelled rows, inputs alone, a control slice, a test set."""
    make_data(tmp_path)
    rows = reviews(200, seed=9)
    write_rows(tmp_path / "old-train.jsonl", rows[:20])
    write_rows(tmp_path / "old-texts.jsonl", [{"text": row["text"]} for row in rows[20:60]])
    write_rows(tmp_path / "old-validation.jsonl", rows[60:100])
    places = ("north", "south", "south")
    write_rows(tmp_path / "old.jsonl", [{**row, "place": places[i % 3]} for i, row in enumerate(rows[100:160])])
    return tmp_path


def old_model(tiny, folder, architecture: str = "bert", epochs: int = 12, rate: float = 1e-2) -> run_folder.Run:
    """A model that knows the old domain: after so many epochs without a doubt."""
    rows = {"train": "old-train.jsonl"}
    training = {"epochs": epochs, "batch_size": 4, "learning_rate": rate, "precision": "fp32"}
    return train(spec_of("fine-tuning", tiny(architecture), data=rows, training=training), folder, output="old-model")


def job_of(values: dict, folder) -> Job:
    return build.build(prepare.prepare(recipe.from_dict(values, folder)))


# Streams


@pytest.mark.parametrize(
    ("anchor_on", "source", "held"),
    [("target", ("train",), {"train"}), ("source", ("unlabeled", "train"), {"source"}),
     ("both", ("unlabeled", "train"), {"train", "source"})],
)  # fmt: skip
def test_rows_carry_what_their_stream_says(tiny, data, anchor_on, source, held):
    values = spec(tiny, anchor_on=anchor_on, source=source)
    values["data"]["mix"] = {"source": 0.5} | ({"source_unlabeled": 0.75} if "unlabeled" in source else {})
    plan = job_of(values, data).plan
    texts = {line["text"] for line in lines(data / "old-texts.jsonl")}
    replayed = {row.key for row in prepare.prepare(recipe.from_dict(values, data)).rows["source_train"]}
    for step in range(plan.steps):
        rows = plan.micro_batch(0, step, 0)
        own, streamed = rows[:8], rows[8:]
        assert all(row.anchored == ("train" in held) and row.labelled for row in own)
        old = [row for row in streamed if row.key in replayed]
        inputs = [row for row in streamed if row.key not in replayed]
        assert len(old) == 4
        assert all(row.labelled and not row.anchored for row in old)
        assert len(inputs) == (6 if "unlabeled" in source else 0)
        assert all(row.anchored and not row.labelled for row in inputs)
    assert len(texts) == 40


def test_labelled_batches_are_those_of_a_plain_run(tiny, data):
    plain = job_of(spec_of("fine-tuning", tiny("bert")), data).plan
    held = job_of(spec(tiny, anchor_on="source", source=("unlabeled", "train")), data).plan
    for step in range(plain.steps):
        own, theirs = plain.micro_batch(0, step, 0), held.micro_batch(0, step, 0)
        assert [row.key for row in own] == [row.key for row in theirs[:8]]


def test_the_loss_of_a_source_anchor_by_hand(tiny, data):
    """CE over the target's rows, D over the source's, each divided by its own count; in float64 with stock models."""
    job = job_of(spec(tiny, anchor_on="source", source=("unlabeled", "train")), data)
    with torch.no_grad():
        for weight in job.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    rows = job.plan.micro_batch(0, 0, 0)
    batch = job.material.task.collate_anchored(rows)
    student, reference = job.model.double().eval(), job.reference.model.double()
    counts = Counts(*job.material.task.counts(batch))
    ours = job.material.task.rows(student(**batch["inputs"]), batch)
    theirs = job.reference.rows(batch["anchored_batch"])
    terms = job.objective(job.material.task.cross_entropy(ours, batch), ours, theirs, batch["anchored"], counts=counts)
    p, q = (model(**batch["inputs"]).logits.log_softmax(-1) for model in (student, reference))
    labelled = batch["targets"] != IGNORED
    by_hand = -p[labelled].gather(-1, batch["targets"][labelled][:, None]).sum() / 10
    divergence = (p.exp() * (p - q)).sum(-1)[batch["anchored"]].sum() / 8
    assert counts == (10, 8)  # 8 of the target and 2 replayed; 8 inputs of the source
    assert terms.loss.item() == pytest.approx((by_hand + 0.7 * divergence).item(), rel=1e-6)
    terms.loss.backward()
    got = student.classifier.weight.grad.clone()
    student.zero_grad()
    (by_hand + 0.7 * divergence).backward()
    torch.testing.assert_close(got, student.classifier.weight.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [None, 1, 2, 3])
@pytest.mark.parametrize("coarse", [False, True])
def test_a_reference_of_the_anchored_rows_alone_is_the_same(size, coarse):
    generator = torch.Generator().manual_seed(0)
    student, reference = (Dense(torch.randn(7, 5, generator=generator, dtype=torch.float64)) for _ in range(2))
    anchored = torch.tensor([False, True, True, False, False, True, False])

    def of(logits: torch.Tensor):
        dense = Dense(logits)
        if not coarse:
            return dense
        kept, ids = dense.log_probs(slice(None)).topk(2)
        tail = torch.log1p(-kept.exp().sum(-1, keepdim=True))
        return Coarse(ids, torch.cat([kept, tail], -1))

    objective = Objective(size=size)
    whole = objective.total(student, of(reference.logits), anchored)
    alone = objective.total(student, of(reference.logits[anchored]), anchored)
    assert alone.item() == pytest.approx(whole.item(), rel=1e-12)
    with pytest.raises(ValueError, match="or the anchored 3"):
        objective.total(student, of(reference.logits[:4]), anchored)


def test_the_reference_is_asked_only_of_rows_that_it_holds(tiny, data, monkeypatch):
    seen: list[str] = []
    values = spec(tiny, anchor_on="source", source=("unlabeled",))
    original = Model.rows

    def rows(self, batch):
        seen.extend(batch["keys"])
        return original(self, batch)

    monkeypatch.setattr(Model, "rows", rows)
    train(values, data)
    material = prepare.prepare(recipe.from_dict(values, data))
    inputs = {e.key for e in material.examples["source_unlabeled"]}
    assert seen
    assert set(seen) <= inputs


@pytest.mark.parametrize("anchor_on", wide.all_but(["source", "both"], ["both"]))
def test_a_cache_trains_the_same(tiny, data, anchor_on):
    values = spec(tiny, anchor_on=anchor_on, source=("unlabeled",))
    values["training"] |= {"optim": "sgd"}
    live = train({**values, "reference": {"from": "online"}}, data, output="live")
    kept = train({**values, "reference": {"from": "cached"}}, data, output="kept")
    assert kept.result["reference"]["kind"] == "cached"
    asked = 40 if anchor_on == "source" else 64
    assert kept.result["reference"]["cache"]["examples"] == asked
    assert furthest(live, kept) < 1e-5


@pytest.mark.parametrize("anchor_on", wide.all_but(["source", "both"], ["both"]))
def test_a_killed_run_with_two_domains_goes_on_bit_for_bit(tiny, data, monkeypatch, anchor_on):
    values = spec(tiny, anchor_on=anchor_on, source=("unlabeled", "train", "validation", "test"))
    values["training"] |= {"epochs": 2, "save_steps": 2, "l2_sp": 0.1}
    values["objective"]["weight"] = {"max_kl": 0.01}
    with monkeypatch.context() as patch:
        copy_at(patch, {4: (data / "whole", data / "killed")})
        whole = train(values, data, output="whole")
    again = run.train(recipe.from_dict({**values, "output": "killed"}, data), display=QUIET, resume=True)
    assert furthest(whole, again) == 0
    assert again.result["budget"] == whole.result["budget"]
    assert (whole.folder / "log.jsonl").read_text() == (again.folder / "log.jsonl").read_text()


# Between start and end


def test_the_path_goes_from_the_start_to_the_end(tiny, data):
    whole = train(spec(tiny, "fine-tuning", source=("test",)), data, output="whole")
    half = spec(tiny, "fine-tuning", source=("test",), output="half")
    half["training"] |= {"interpolate": 0.25}
    quarter = train(half, data)
    start, tuned, kept = load_file(tiny("bert") / "model.safetensors"), weights(whole), weights(quarter)
    for name, value in kept.items():
        torch.testing.assert_close(value, torch.lerp(start[name], tuned[name], 0.25), msg=name)


def test_both_ends_are_exact(tiny):
    model = torch.nn.Linear(3, 2)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.weight.mul_(1.7)
    tuned = model.weight.detach().clone()
    path = WeightPath(model, start)
    path.go(0.0)
    assert model.weight.equal(start["weight"])
    path.go(0.5)
    torch.testing.assert_close(model.weight, (start["weight"] + tuned) / 2)
    path.go(1.0)
    assert model.weight.equal(tuned)
    share = largest_within(
        path, lambda: bool((model.weight - start["weight"]).norm() <= 0.6 * (tuned - start["weight"]).norm())
    )
    assert share == pytest.approx(0.6, abs=1 / 64)


def point(share: float, target: float, source: float, upper: float = 0.0) -> dict:
    scores = {"target": {"accuracy": target}, "source": {"accuracy": source}}
    return {"share": share, **scores, "source_drop": {"value": upper, "upper": upper}}


def test_what_is_recommended():
    points = [point(0.0, 0.6, 0.9), point(0.5, 0.8, 0.85, 0.05), point(1.0, 0.9, 0.6, 0.3)]
    assert recommended(points, "accuracy", 1.0, None)[0] == 0.5  # 1.65 of both together
    assert recommended(points, "accuracy", 1.0, 0.1)[0] == 0.5
    assert recommended(points, "accuracy", 1.0, 0.01)[0] == 0.0
    assert recommended(points, "accuracy", 1.0, 0.4)[0] == 1.0
    rates = [point(0.0, 0.5, 0.1), point(1.0, 0.1, 0.2, 0.1)]
    assert recommended(rates, "accuracy", -1.0, None)[0] == 1.0  # of error rates the smaller


def test_the_sweep_scores_the_models_on_the_way(tiny, data):
    values = spec(tiny, "fine-tuning", source=("validation", "test"))
    finished = train(values, data)
    found = finished.result["interpolation"]
    assert [p["share"] for p in found["points"]] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    first, last = found["points"][0], found["points"][-1]
    assert first["target"] == pytest.approx(finished.result["metrics"]["before"]["validation"], rel=1e-5)
    assert last["target"] == pytest.approx(finished.result["metrics"]["validation"], rel=1e-5)
    assert first["source_drop"] == {"value": 0.0, "upper": 0.0}
    losses = [p["target"]["loss"] for p in found["points"]]
    assert len(set(losses)) == 6


# Near the start's weights


@pytest.mark.parametrize("accumulation", [1, 2])
def test_l2_sp_by_hand(tiny, data, accumulation):
    """∇ λ/2 ‖θ − θ₀‖² = λ (θ − θ₀), once a step however it is cut; a step of SGD shows it."""
    values = spec_of("fine-tuning", tiny("bert"))
    values["data"].pop("validation")
    common = {"optim": "sgd", "max_steps": 2, "epochs": None, "weight_decay": 0.0, "lr_scheduler_type": "constant",
              "warmup_steps": 0, "max_grad_norm": 0.0, "learning_rate": 0.1,
              "batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}  # fmt: skip
    values["training"] |= common
    one = train({**values, "training": {**values["training"], "max_steps": 1}}, data, output="one")
    free = train(values, data, output="free")
    held = train({**values, "training": {**values["training"], "l2_sp": 3.0}}, data, output="held")
    start, first = load_file(tiny("bert") / "model.safetensors"), weights(one)
    for name, value in weights(held).items():
        by_hand = weights(free)[name] - 0.1 * 3.0 * (first[name] - start[name])
        torch.testing.assert_close(value, by_hand, atol=2e-6, rtol=1e-4, msg=name)


# The budget


@pytest.mark.parametrize("source", [("validation",), ("unlabeled", "validation")])
def test_a_budget_of_divergence_is_held(tiny, data, source):
    on = "source" if "unlabeled" in source else "target"
    values = spec(tiny, anchor_on=on, source=source)
    values["training"] |= {"epochs": 8}
    free = train(values, data, output="free", objective={**values["objective"], "weight": 0.0})
    held = train(values, data, output="held", objective={**values["objective"], "weight": {"max_kl": 0.02}})
    moved = {
        r.folder.name: _moved(tiny, r, data / f"{'old-' if on == 'source' else ''}validation.jsonl")
        for r in (free, held)
    }
    assert moved["free"] > 0.03
    assert held.result["budget"]["held"]
    assert held.result["budget"]["measured"] == pytest.approx(moved["held"], rel=1e-3)
    assert moved["held"] <= 0.02
    trajectory = held.result["budget"]["trajectory"]
    logged = [(e["step"], e["max_kl"], e["weight"]) for e in lines(held.folder / "log.jsonl") if "max_kl" in e]
    assert [tuple(entry) for entry in trajectory] == logged
    steps = [e["step"] for e in lines(held.folder / "log.jsonl") if "cross_entropy" in e]
    assert steps == list(range(1, 25))  # the step's own lines are all there
    assert held.result["objective"]["weight"] == trajectory[-1][2]


def _moved(tiny, finished: run_folder.Run, file) -> float:
    """KL(tuned ‖ start) a row, by stock transformers."""
    texts = [line["text"] for line in lines(file)]
    p, q = (np.log(stock_probabilities(folder, texts)) for folder in (finished.model, tiny("bert")))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def test_a_budget_of_forgetting_is_held_on_the_control_slice(tiny, data):
    source = old_model(tiny, data)
    turned = [
        {**row, "label": {"positive": "negative", "negative": "positive"}[row["label"]]} for row in reviews(60, seed=4)
    ]
    write_rows(data / "train.jsonl", turned)  # a target domain that contradicts the source
    values = spec(tiny, source=("validation", "test")) | {"model": str(source.model)}
    values["training"] |= {"epochs": 6}
    values["objective"]["weight"] = {"max_source_drop": 0.1}
    plain = train({**values, "method": "fine-tuning", "objective": {}}, data, output="plain")
    held = train(values, data, output="held")
    assert -plain.result["forgetting"]["control"]["metrics"]["accuracy"]["change"] > 0.2
    budget = held.result["budget"]
    assert budget["held"]
    assert budget["measured"] <= 0.1
    control = held.result["forgetting"]["control"]["metrics"]["accuracy"]
    assert -control["change"] <= budget["measured"]


def test_the_weight_follows_the_violation(tiny, data):
    """Up above the limit, down below it, damped by the change: log w += 0.3 v + (v − v′)."""
    values = spec(tiny, source=("test",))
    values["objective"]["weight"] = {"max_kl": 0.5}
    found = train(values, data).result["budget"]["trajectory"]
    weight, earlier = build.FIRST_WEIGHT, 0.0
    for _, measured, after in found:
        violation = max(-1.0, min(1.0, measured / 0.5 - 1))
        weight = min(
            max(weight * math.exp(0.3 * violation + violation - earlier), DualAscent.RANGE[0]), DualAscent.RANGE[1]
        )
        assert after == pytest.approx(weight, rel=1e-9)
        earlier = violation
    assert found


def test_an_adapter_is_held_and_goes_back_like_all_weights(tiny, data):
    values = spec(tiny, source=("validation", "test"))
    values["training"] |= {"epochs": 6, "lora": {"rank": 4}}
    values["objective"]["weight"] = {"max_kl": 1e-4}
    held = train(values, data)
    assert held.result["reference"]["kind"] == "adapter-off"
    assert held.result["budget"]["held"]
    assert _moved(tiny, held, data / "validation.jsonl") <= 1e-4 + 1e-6
    first, last = (held.result["interpolation"]["points"][i]["target"]["loss"] for i in (0, -1))
    assert first == pytest.approx(held.result["metrics"]["before"]["validation"]["loss"], rel=1e-5)
    assert last != first


def test_clusters_that_no_row_has_are_refused(tiny, data):
    with pytest.raises(UserError, match=r"evaluation\.clusters") as refused:
        train(spec(tiny, evaluation={"clusters": "speaker"}), data)
    assert "label, place, text" in str(refused.value) or "label, text" in str(refused.value)
    warned = prepare.prepare(recipe.from_dict(spec(tiny, evaluation={"clusters": "place"}), data)).warnings
    (few,) = [str(warning) for warning in warned if warning.field == "evaluation.clusters"]
    assert "2 clusters in the rows of source" in few
    found = train(spec(tiny, evaluation={"clusters": "place"}), data).result["forgetting"]
    assert found["source"]["clusters"] == 2
    assert found["target"]["clusters"] is None


# Labels that the reference would overrule


@pytest.mark.parametrize(("divergence", "weight"), [("reverse-kl", 1.0), ("reverse-kl", 0.29), ("forward-kl", 1.5)])
def test_the_bar_is_where_the_label_loses(divergence, weight):
    """At the optimum of CE + weight · D for two choices, found by descent, the label has less than half beyond it."""
    share = overruled_labels.veto(torch.zeros(1), weight, divergence).confidence
    for q, loses in ((share - 0.01 * (1 - share), False), (share + 0.01 * (1 - share), True)):
        reference = Dense(torch.tensor([[math.log(1 - q), math.log(q)]], dtype=torch.float64))  # the label is choice 0
        logit = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([logit], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-16)

        def loss(logit=logit, reference=reference, optimizer=optimizer):
            optimizer.zero_grad()
            student = Dense(torch.stack([logit, -logit])[None])
            value = -student.log_probs(slice(None))[0, 0] + weight * Objective(divergence).total(student, reference)
            value.backward()
            return value

        optimizer.step(loss)
        assert (logit.item() < 0) == loses


def test_the_veto_counts_labels():
    log_probs = torch.tensor([[0.95, 0.05], [0.6, 0.4], [0.1, 0.9], [0.999, 0.001]]).log()
    ratios = overruled_labels.log_ratios(log_probs, torch.tensor([1, 1, 1, IGNORED]))
    assert ratios.tolist() == pytest.approx([math.log(19), math.log(1.5), -math.log(9)], abs=1e-5)
    found = overruled_labels.veto(ratios, 1.0, "reverse-kl")
    assert (found.predictions, found.contradicted, found.overruled) == (3, pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert found.confidence == pytest.approx(1 / (1 + math.exp(-2)))
    assert found.weight_kept == pytest.approx(2 / math.log(19), rel=1e-5)
    assert overruled_labels.veto(ratios, found.weight_kept * 0.999, "reverse-kl").overruled == 0
    assert overruled_labels.veto(ratios, 1.0, "forward-kl").overruled == 0  # below 1 the label always wins
    assert overruled_labels.veto(ratios, 1.0, "jensen-shannon") is None


def test_a_run_that_overrules_labels_says_so(tiny, data, capsys):
    source = old_model(tiny, data)
    turned = [{**row, "label": "negative"} for row in reviews(60, seed=4)[:50]] + reviews(60, seed=4)[50:]
    write_rows(data / "train.jsonl", turned)
    values = spec(tiny) | {"model": str(source.model)}
    values["objective"]["weight"] = 5.0
    found = run.train(recipe.from_dict(values, data), display=Display()).result["veto"]
    said = capsys.readouterr().err
    assert found["overruled"] > 0.05
    assert "warning: the reference would choose otherwise" in said
    kept = float(said.partition("with objective.weight: ")[2].split()[0])
    assert kept <= found["weight_kept"]


# What was forgotten


def test_the_report_is_made_of_the_prediction_files(tiny, data):
    """Every figure again, by other code, from nothing but the run folder and the rows."""
    values = spec(tiny, source=("validation", "test"))
    values["training"] |= {"epochs": 4}
    finished = train(values, data)
    report = finished.result["forgetting"]
    for name, split, file in (("source", "source", "old"), ("control", "source_validation", "old-validation"),
                              ("target", "test", "test")):  # fmt: skip
        old, new = (lines(finished.folder / "predictions" / where / f"{split}.jsonl") for where in ("before", "."))
        rows = lines(data / f"{file}.jsonl")
        right = [np.array([p["prediction"] == row["label"] for p, row in zip(side, rows, strict=True)], float)
                 for side in (old, new)]  # fmt: skip
        found = report[name]["metrics"]["accuracy"]
        assert found["before"] == right[0].mean()
        assert found["after"] == right[1].mean()
        assert found["change"] == right[1].mean() - right[0].mean()
        draws = np.random.default_rng(0).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=1000)
        changes = draws @ right[1] / len(rows) - draws @ right[0] / len(rows)
        assert found["interval"] == pytest.approx(list(np.percentile(changes, [2.5, 97.5])), abs=1e-12)
        assert report[name]["retention"] == right[1].mean() / right[0].mean()
        lost = [i + 1 for i, (a, b) in enumerate(zip(*right, strict=True)) if a > b]
        assert [entry["row"] for entry in report[name]["lost"]] == lost
        won = int((right[1] > right[0]).sum())
        assert report[name]["won"] == won
        p = binomtest(len(lost), len(lost) + won).pvalue if lost or won else 1.0
        assert report[name]["mcnemar"] == {"lost": len(lost), "won": won, "p": pytest.approx(p)}
    places = [row["place"] for row in lines(data / "old.jsonl")]
    for place in ("north", "south"):
        chosen = [i for i, other in enumerate(places) if other == place]
        found = report["source"]["slices"]["place"][place]
        old, new = (lines(finished.folder / "predictions" / where / "source.jsonl") for where in ("before", "."))
        assert found["rows"] == len(chosen)
        assert found["after"] == pytest.approx(np.mean([new[i]["score"] for i in chosen]), abs=1e-15)
        assert found["change"] == pytest.approx(np.mean([new[i]["score"] - old[i]["score"] for i in chosen]), abs=1e-15)
    assert set(report["source"]["slices"]["length"]) <= set(slices.THIRDS)
    moved = report["divergence"]["target"]["reverse_kl"]
    assert moved == pytest.approx(_moved(tiny, finished, data / "test.jsonl"), rel=1e-3)
    page = check_page((finished.folder / "report.html").read_text())
    assert "Learnt and forgotten" in page.text


def test_nothing_changes_where_nothing_was_learnt(tiny, data):
    values = spec(tiny, source=("test",))
    values["training"] |= {"learning_rate": 1e-12}
    report = train(values, data).result["forgetting"]
    assert report["source"]["metrics"]["accuracy"]["change"] == 0
    assert report["source"]["retention"] == 1
    assert report["source"]["lost"] == []
    assert report["divergence"]["source"]["reverse_kl"] == pytest.approx(0, abs=1e-6)


def test_retention_of_scores_and_of_error_rates():
    assert forgetting.retention(0.8, 0.6, "accuracy") == pytest.approx(0.75)
    assert forgetting.retention(0.2, 0.4, "wer") == pytest.approx(0.75)
    assert forgetting.retention(0.0, 0.4, "f1") is None
    assert forgetting.retention(0.5, 0.8, "loss") is None


def test_clusters_are_drawn_whole():
    table = np.random.default_rng(3).normal(size=(60, 2))
    clusters = np.repeat(np.arange(6), 10)
    sums = table.reshape(6, 10, 2).sum(1)
    np.testing.assert_allclose(bootstrap.bootstrap(table, clusters=clusters), bootstrap.bootstrap(sums))
    alike = np.repeat(np.random.default_rng(4).normal(size=(6, 1)), 10, axis=0)
    alone, whole = (bootstrap.bootstrap(alike, clusters=c).std() for c in (None, clusters))
    assert whole > 2 * alone  # rows of one speaker tell one story


def test_domains_that_are_one_and_domains_that_share_nothing():
    drawn = random.Random(0)
    words = [" ".join(drawn.choices("klmnopqrstuv", k=6)) for _ in range(200)]
    same = domain_shift.words(words[::2], words[1::2])
    apart = domain_shift.words(words, [text.upper() + " zz" for text in words])
    chinese = domain_shift.words(["电影很好看"] * 15 + ["剧情不错啊"] * 15, ["物流非常快"] * 15 + ["质量太差了"] * 15)
    assert same < 0.5
    assert apart == pytest.approx(2)
    assert chinese == pytest.approx(2)
    assert domain_shift.words(words[:5], words) is None
    generator = np.random.default_rng(0)
    a, b = (generator.normal(size=(100, 8)) for _ in range(2))
    assert domain_shift.features(a, b) < 0.6
    assert domain_shift.features(a, b + 6) == pytest.approx(2)


# Several runs


def test_compare(tiny, data):
    values = spec(tiny, source=("validation", "test"))
    values["training"] |= {"epochs": 3}
    plain = train({**values, "method": "fine-tuning", "objective": {}}, data, output="plain")
    held = [train({**values, "objective": {"weight": w}}, data, output=f"held-{w}") for w in (0.3, 30.0)]
    found = comparison.compare([plain.folder, *(one.folder for one in held)])
    assert found["baseline"] == "plain"
    assert [line["weight"] for line in found["runs"]] == [None, 0.3, 30.0]
    for line, one in zip(found["runs"], [plain, *held], strict=True):
        assert line["target"]["value"] == pytest.approx(one.result["metrics"]["test"]["accuracy"])
        assert line["target"]["interval"] == pytest.approx(one.result["intervals"]["test"]["accuracy"])
        assert line["source"]["value"] == pytest.approx(one.result["metrics"]["source"]["after"]["accuracy"])
    for split, domain in (("test", "target"), ("source", "source")):
        raw = []
        for line, one in zip(found["runs"][1:], held, strict=True):
            files = [r.folder / "predictions" / f"{split}.jsonl" for r in (one, plain)]
            a, b = (np.array([p["score"] for p in lines(file)]) for file in files)
            assert line["against"][domain]["change"] == pytest.approx(a.mean() - b.mean())
            won, lost = int((a > b).sum()), int((a < b).sum())
            raw.append(binomtest(won, won + lost).pvalue if won + lost else 1.0)
            assert line["against"][domain]["p"] == pytest.approx(raw[-1])
        small, large = sorted(raw)
        assert sorted(line["against"][domain]["p_holm"] for line in found["runs"][1:]) == pytest.approx(
            [min(1, 2 * small), max(min(1, 2 * small), large)]
        )
    page = check_page(comparison_page.page(found))
    assert "held-30.0" in page.text
    assert found["language"] == "en"
    chinese = check_chinese(comparison_page.page(comparison.compare([plain.folder, held[0].folder], "zh")))
    for word in ("相对 plain", "帕累托前沿", "按 Holm 法对 1 次比较作校正", "准确率（源域）"):
        assert word in chinese.text
    change = found["runs"][1]["against"]["target"]
    assert f"{change['change']:+.4f} ({change['interval'][0]:+.4f} 至 {change['interval'][1]:+.4f})" in chinese.text
    for one, language in ((plain, "en"), (held[0], "zh")):  # the runs' own, where they agree
        file = one.folder / "recipe.yaml"
        file.write_text(file.read_text("utf-8").replace("language: en", "language: zh"), encoding="utf-8")
        assert comparison.compare([plain.folder, held[0].folder])["language"] == language
    with pytest.raises(UserError, match="en or zh"):
        comparison.compare([plain.folder], "fr")
    assert any(tag == "svg" for tag, _ in page.tags)


def test_mcnemar_stands_beside_a_share_of_right_rows_alone():
    """Not beside a loss whose rows are also right or wrong: its p would be another metric's."""
    task = SimpleNamespace(metrics=("loss",), lower_is_better=("loss",), details=lambda sums: {})
    rng = np.random.default_rng(0)
    losses, ones = rng.gamma(2.0, size=80), np.ones(80)
    theirs = comparison.Side([1.0] * 40 + [0.0] * 40, [np.stack([losses, ones], 1)], None)
    ours = comparison.Side([0.0] * 40 + [1.0] * 40, [np.stack([losses - 0.5, ones], 1)], None)
    found = comparison.against(task, ours, theirs, "loss")
    assert found["change"] == pytest.approx(-0.5)
    assert found["p"] == pytest.approx(2 / 1001)  # 40 won and 40 lost rows would be 1


def test_clusters_that_one_run_names_are_drawn_in_all(tiny, data):
    for name in ("test.jsonl", "train.jsonl", "validation.jsonl"):
        rows = [{**row, "speaker": str(i // 3)} for i, row in enumerate(lines(data / name))]
        write_rows(data / name, rows)
    values = spec(tiny, source=())
    runs = [train({**values, "evaluation": evaluation_of, "training": {**values["training"], "epochs": n}}, data,
                  output=f"clusters-{n}") for n, evaluation_of in ((1, {}), (4, {"clusters": "speaker"}))]  # fmt: skip
    one, other = (comparison.compare([a.folder, b.folder])["runs"] for a, b in (runs, runs[::-1]))
    assert (
        one[1]["target"]["interval"]
        == other[0]["target"]["interval"]
        == runs[1].result["intervals"]["test"]["accuracy"]
    )
    assert one[0]["target"]["interval"] == other[1]["target"]["interval"]
    mirrored = [-end for end in reversed(other[1]["against"]["target"]["interval"])]
    assert one[1]["against"]["target"]["interval"] == pytest.approx(mirrored)


def test_names_of_runs_tell_them_apart(tmp_path):
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c"]
    assert comparison._names(folders) == ["a/run", "b/run", f"{tmp_path.name}/c"]
    assert comparison._names([folders[0], folders[0]]) == ["run", "run"]


def test_rows_without_a_cluster_stand_alone():
    rows = [SimpleNamespace(fields=fields) for fields in ({"who": "a"}, {"who": None}, {"who": "a"}, {"who": None}, {})]
    numbers = numbers_of(rows, "who")
    assert numbers[0] == numbers[2]
    assert len(set(numbers)) == 4
    assert numbers_of(rows[1:2] + rows[3:], "who") is None


def test_runs_on_other_rows_are_not_compared(tiny, data):
    one = train(spec(tiny), data, output="one")
    write_rows(data / "old.jsonl", reviews(30, seed=77))
    two = train(spec(tiny), data, output="two")
    with pytest.raises(UserError, match="other rows in source") as refused:
        comparison.compare([one.folder, two.folder])
    assert refused.value.exit_status == 2
    with pytest.raises(UserError, match="no finished run"):
        comparison.compare([one.folder, data / "none"])


def test_the_front():
    runs = [
        {"target": {"value": t}, "source": {"value": s}} for t, s in [(0.9, 0.6), (0.8, 0.8), (0.8, 0.7), (0.7, 0.9)]
    ]
    comparison._pareto(runs, 1.0)
    assert [line["pareto"] for line in runs] == [True, True, False, True]


def test_a_plane_keeps_names_as_text():
    picture = charts.plane([charts.NamedPoint("<b>", (0.1, 0.0, 0.2), (0.5, 0.4, 0.6))], "x", "y")
    assert "&lt;b&gt;" in picture
    assert "<b>" not in picture


# Label sets that differ


NEW = ("blame", "neutral", "praise")


def new_labels(folder) -> None:
    names = {"negative": "blame", "positive": "praise"}
    for split, seed in (("train", 21), ("validation", 22), ("test", 23)):
        rows = [{**row, "label": names[row["label"]]} for row in reviews(24, seed=seed)]
        rows[::4] = [{**row, "label": "neutral"} for row in rows[::4]]
        write_rows(folder / f"{split}.jsonl", rows)


def without_dropout(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({k: 0.0 if "dropout" in k else v for k, v in config.items()}))
    (model / sealed_model.MANIFEST).unlink()  # a change that is meant
    return model


HEADS = by_turns([("bert",), ("distilbert",), ("roberta",)], ["target", "source"])


@pytest.mark.parametrize(
    ("architecture", "anchor_on"), wide.all_but(HEADS, [("bert", "source"), ("distilbert", "target")])
)
def test_the_old_head_is_held_beside_a_new_one(tiny, data, architecture, anchor_on):
    known = without_dropout(
        old_model(tiny, data, architecture, epochs=6, rate=2e-3).model
    )  # whose noise is larger than what is measured
    new_labels(data)
    source = ("validation", "test") + (("unlabeled",) if anchor_on == "source" else ())
    values = spec(tiny, anchor_on=anchor_on, source=source) | {"model": str(known)}
    values["objective"] |= {"anchor_head": "source", "weight": 100.0}
    values["training"] |= {"epochs": 8, "learning_rate": 2e-3}
    values["data"].pop("validation")  # the last weights are compared, not the best ones
    held = train(values, data, output="held")
    free = train({**values, "objective": {**values["objective"], "weight": 0.0}}, data, output="free")
    assert list(held.result["metrics"]["test"]["by_label"]) == list(NEW)
    assert held.result["metrics"]["before"]["test"] is None  # the new head knew nothing
    texts = [row["text"] for row in lines(data / "old.jsonl")]
    start = np.log(stock_probabilities(known, texts))
    moved = {}
    for one in (held, free):
        after = np.log(stock_probabilities(one.folder / "source_model", texts))
        predicted = lines(one.folder / "predictions" / "source.jsonl")
        stored = np.log([list(line["probabilities"].values()) for line in predicted])
        np.testing.assert_allclose(stored, after, atol=1e-4)
        assert [list(line["probabilities"]) for line in predicted] == [["negative", "positive"]] * len(texts)
        moved[one.folder.name] = float((np.exp(after) * (after - start)).sum(-1).mean())
        stock_probabilities(one.model, texts[:2])
    assert moved["held"] < 0.5 * moved["free"]
    report = held.result["forgetting"]["source"]
    gold = [row["label"] for row in lines(data / "old.jsonl")]
    before = lines(held.folder / "predictions" / "before" / "source.jsonl")
    assert report["metrics"]["accuracy"]["before"] == np.mean(
        [p["prediction"] == g for p, g in zip(before, gold, strict=True)]
    )


def test_the_gradient_of_the_old_head_by_hand(tiny, data):
    """CE of the new head + weight · KL(old head on this body ‖ old head on the source's body), with stock models."""
    new_labels(data)
    values = spec(tiny, anchor_on="source", source=("unlabeled",))
    values["objective"] |= {"anchor_head": "source", "weight": 0.7}
    job = job_of(values, data)
    body = job.model.bert
    with torch.no_grad():
        for weight in body.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
    assert job.anchor_head.model.bert is body
    for module in (job.model.double().eval(), job.anchor_head.model.double().eval(), job.reference.model.double()):
        module.zero_grad()
    batch = build.collated(job, job.plan.micro_batch(0, 0, 0))
    assert sorted(batch["anchored_batch"]["keys"]) == sorted(
        k for k, a in zip(batch["keys"], batch["anchored"], strict=True) if a
    )
    ours = job.anchor_head.task.rows(
        job.anchor_head.task.forward(job.anchor_head.model, batch["anchored_batch"]), batch["anchored_batch"]
    )
    rows = job.material.task.rows(job.material.task.forward(job.model, batch), batch)
    terms = job.objective(job.material.task.cross_entropy(rows, batch), ours,
                          job.reference.rows(batch["anchored_batch"]), counts=Counts(8, 8))  # fmt: skip
    terms.loss.backward()
    got = body.embeddings.word_embeddings.weight.grad.clone()
    body.zero_grad()
    old = AutoModelForSequenceClassification.from_pretrained(tiny("bert"), dtype=torch.float64).eval()
    q = old(**batch["anchored_batch"]["inputs"]).logits.log_softmax(-1)
    head = old.classifier(body(**batch["anchored_batch"]["inputs"]).pooler_output)
    p = head.log_softmax(-1)
    labelled = batch["targets"] != IGNORED
    log_new = job.model(**batch["inputs"]).logits.log_softmax(-1)[labelled]
    loss = (
        -log_new.gather(-1, batch["targets"][labelled][:, None]).sum() / 8
        + 0.7 * (p.exp() * (p - q.detach())).sum() / 8
    )
    assert terms.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    loss.backward()
    torch.testing.assert_close(got, body.embeddings.word_embeddings.weight.grad, rtol=1e-5, atol=1e-8)


def test_a_budget_of_the_old_heads_own_labels(tiny, data):
    """What the old head forgets of its labels, which the new head does not have, bounds the weight."""
    known = old_model(tiny, data, "bert", epochs=6, rate=2e-3).model
    new_labels(data)
    values = spec(tiny, anchor_on="target", source=("validation", "test")) | {"model": str(known)}
    values["objective"] |= {"anchor_head": "source", "weight": {"max_source_drop": 0.2}}
    values["training"] |= {"epochs": 4, "learning_rate": 2e-3}
    budget = train(values, data, output="bounded").result["budget"]
    assert len(budget["trajectory"]) > 1
    assert budget["held"] == (budget["measured"] <= 0.2)


@pytest.fixture
def masked(data):
    """An encoder with its pretrained head of masked tokens, as it is published."""
    torch.manual_seed(3)
    tokenizer = word_tokenizer()
    config = AutoConfig.for_model("bert", vocab_size=len(tokenizer), **BODY)
    AutoModelForMaskedLM.from_config(config).save_pretrained(data / "encoder")
    tokenizer.save_pretrained(data / "encoder")
    return data / "encoder"


def test_masked_tokens_are_held(tiny, data, masked):
    values = spec(tiny, anchor_on="both", source=("unlabeled",)) | {"model": str(masked)}
    values["objective"] |= {"anchor_head": "masked-lm", "weight": 20.0}
    values["training"] |= {"epochs": 4, "learning_rate": 3e-3}
    job = job_of(values, data)
    rows = job.plan.micro_batch(0, 0, 0)
    batch = build.collated(job, rows)
    held, mask = batch["anchored_batch"], job.material.task.tokenizer.mask_token_id
    assert int((held["inputs"]["input_ids"] == mask).sum()) == len(held["targets"]) == int(held["predicted"].sum())
    for example in rows:  # the same masks, whatever the batch
        one, again = (job.material.anchor_task.of(example) for _ in range(2))
        assert one.inputs["input_ids"] == again.inputs["input_ids"]
        changed = [
            i
            for i, (a, b) in enumerate(zip(one.inputs["input_ids"], example.inputs["input_ids"], strict=True))
            if a != b
        ]
        assert changed == [i for i, masked_here in enumerate(one.predicted) if masked_here]
        assert not {example.inputs["input_ids"][i] for i in changed} & set(job.material.task.tokenizer.all_special_ids)
    theirs = job.reference.rows(held).log_probs(slice(None))
    stock = AutoModelForMaskedLM.from_pretrained(masked, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = stock(**held["inputs"]).logits[held["predicted"]].log_softmax(-1)
    torch.testing.assert_close(theirs, expected, atol=1e-5, rtol=1e-5)
    finished = train(values, data)
    free = train({**values, "objective": {**values["objective"], "weight": 0.0}}, data, output="free")
    assert 0 < finished.result["objective"]["divergence"] < free.result["objective"]["divergence"]
    first = next(e for e in lines(finished.folder / "log.jsonl") if "divergence" in e)
    assert first["divergence"] == pytest.approx(0, abs=1e-3)
    stock_probabilities(finished.model, ["the film is good"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"method": "distillation", "reference": "encoder"}, "it holds a source model"),
     ({"training": {"lora": {}}}, "no lora"), ({"reference": "other"}, "no reference is named")],
)  # fmt: skip
def test_a_second_head_where_there_can_be_none(tiny, data, masked, changes, said):
    values = spec(tiny, anchor_on="target", source=()) | {"model": str(masked)} | changes
    values["objective"] = {"anchor_head": "masked-lm", "weight": 1.0}
    with pytest.raises(UserError, match=re.escape(said)):
        recipe.from_dict(values, data)


def test_other_labels_are_refused_with_the_legal_ways(tiny, data):
    new_labels(data)
    with pytest.raises(UserError, match="anchor_head: source") as refused:
        train(spec(tiny), data)
    assert "masked-lm" in str(refused.value)
    assert refused.value.exit_status == 2


def test_show_tells_of_a_second_head(tiny, data, masked):
    values = spec(tiny, source=()) | {"model": str(masked)}
    values["objective"] = {"anchor_head": "masked-lm"}
    console = Terminal(file=io.StringIO(), width=120)
    row_journey.show_row(recipe.from_dict(values, data), 1, console)
    said = console.file.getvalue()
    assert "D is of another head (masked-lm)" in said
    assert "loss" in said


def test_several_labels_a_row_beside_an_old_head_of_more(tiny, data):
    """N is B × L of each head: the old one's predictions are counted, not the new one's."""
    known = tiny("bert", ("a", "b", "c"))
    config = json.loads((known / "config.json").read_text()) | {"problem_type": "multi_label_classification"}
    folder = data / "many"
    shutil.copytree(known, folder)
    (folder / "config.json").write_text(json.dumps(config))
    for split in ("train", "validation", "test"):
        rows = [
            {"text": row["text"], "label": ["x"] if i % 2 else ["x", "y"]} for i, row in enumerate(reviews(16, seed=8))
        ]
        write_rows(data / f"{split}.jsonl", rows)
    values = spec(tiny, source=()) | {"model": str(folder), "task": "text-classification"}
    values["data"] |= {"multi_label": True}
    values["objective"] = {"anchor_head": "source"}
    job = job_of(values, data)
    batch = build.collated(job, job.plan.micro_batch(0, 0, 0))
    assert len(batch["targets"]) == 8 * 2
    assert len(batch["anchored_batch"]["targets"]) == 8 * 3 == len(job.reference.rows(batch["anchored_batch"]))
    assert train(values, data).result["status"] == "completed"
