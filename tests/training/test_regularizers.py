"""Regularisers: their values and gradients in closed form, under accumulation, off, resumed, and where refused."""

from __future__ import annotations

import copy
import json
import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification

from keeltune import recipe
from keeltune.cli.demo_data import make_reviews
from keeltune.models import surgery, vocabulary
from keeltune.objective.formula import Objective
from keeltune.objective.predictions import IGNORED, Dense, Projected
from keeltune.recipe.regularizer_fields import Regularizers, regularizer_names
from keeltune.runs import run, run_folder
from keeltune.training import build, regularization
from keeltune.training.budget import DualAscent
from keeltune.training.checkpoint_averaging import put_back
from keeltune.training.preparation import prepare
from keeltune.training.regularizers.fgm import Fgm
from keeltune.training.regularizers.freeze import Freeze
from keeltune.training.regularizers.freeze_embeddings import FreezeEmbeddings
from keeltune.training.regularizers.label_smoothing import LabelSmoothing
from keeltune.training.regularizers.layer_decay import LayerDecay
from keeltune.training.regularizers.r_drop import RDrop
from keeltune.training.regularizers.weight_average import WeightAverage
from keeltune.training.student import initial_student
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import exact, families, processes, speakers, step_gradients, wide, writers
from tests.helpers.interruption import copy_at, same

QUIET = Display(quiet=True)
ALL = {"layer_decay": 0.9, "r_drop": 1.0, "weight_average": 0.7, "label_smoothing": 0.1, "fgm": 1.0,
       "neftune": 5.0, "new_top_layers": 1, "freeze_embeddings": True, "freeze": ["*.0"]}  # fmt: skip


def smoothing(log_probs: torch.Tensor, targets: torch.Tensor, strength: float) -> torch.Tensor:
    return LabelSmoothing(strength).on_labelled([log_probs], targets)


def r_drop(log_p: torch.Tensor, log_q: torch.Tensor, strength: float) -> torch.Tensor:
    return RDrop(strength).on_labelled([log_p, log_q], torch.zeros(len(log_p), dtype=torch.long))


def begun(regularizer: Any, model: Any) -> Any:
    """As a trainer begins it."""
    regularizer.begin(model)
    return regularizer


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z.requires_grad_()


# Terms of the loss


def test_smoothing_is_torchs_own_in_value_and_gradient():
    z, targets = logits(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    log_probs = z.log_softmax(-1)
    ours = functional.nll_loss(log_probs, targets, reduction="sum") + smoothing(log_probs, targets, 0.1).sum()
    theirs = functional.cross_entropy(z, targets, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, z, retain_graph=True)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_a_choice_that_cannot_be_made_is_none_to_smoothing():
    z, targets = logits(3, 4), torch.tensor([0, 1, 1])
    padded = torch.cat([z, torch.full((3, 2), -torch.inf, dtype=z.dtype)], 1)
    values = [smoothing(each.log_softmax(-1), targets, 0.2) for each in (z, padded)]
    torch.testing.assert_close(*values, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value.sum(), z)[0] for value in values]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_r_drop_is_the_symmetric_divergence_of_two_passes():
    p, q = torch.tensor([[0.5, 0.5]]).double(), torch.tensor([[0.25, 0.75]]).double()
    # Σ (p − q)(log p − log q) / 2 = 0.25 · log 2 / 2 − 0.25 · log(2 / 3) / 2 = log 3 / 8
    assert r_drop(p.log(), q.log(), 1.0).item() == pytest.approx(math.log(3) / 8)
    assert r_drop(p.log(), p.log(), 1.0).item() == 0
    a, b = logits(6, 5), logits(6, 5, seed=1)
    log_a, log_b = a.log_softmax(-1), b.log_softmax(-1)
    ours = r_drop(log_a, log_b, 0.7).sum()
    pairs = ((log_a, log_b), (log_b, log_a))
    theirs = 0.7 / 2 * sum(functional.kl_div(x, y, log_target=True, reduction="sum") for x, y in pairs)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    ours, theirs = (torch.cat(torch.autograd.grad(value, (a, b), retain_graph=True)) for value in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    assert torch.autograd.grad(r_drop(log_a, log_b, 1.0).sum(), b)[0].abs().min() > 0  # neither side is held still


def test_only_labelled_predictions_count_by_their_weights_and_slices_change_nothing(monkeypatch):
    hidden, head = [logits(7, 4, seed=i) for i in (0, 1)], torch.nn.Linear(4, 5).double()
    targets = torch.tensor([0, IGNORED, 2, 1, IGNORED, 4, 3])
    weights = torch.tensor([1.0, 9.0, 2.0, 0.5, 9.0, 1.0, 1.0])
    log_probs = [head(h).log_softmax(-1) for h in hidden]
    by_hand = sum(
        weights[i].double()
        * (r_drop(log_probs[0][i : i + 1], log_probs[1][i : i + 1], 0.7).sum()
           + sum(smoothing(each[i : i + 1], targets[i : i + 1], 0.1).sum() for each in log_probs) / 2)
        for i in range(7)
        if targets[i] != IGNORED
    )  # fmt: skip
    wanted = torch.autograd.grad(by_hand, [*hidden, head.weight])
    monkeypatch.setattr("keeltune.objective.predictions.SLICE", 10)  # two predictions a slice
    for rows in ([Projected(h, head) for h in hidden], [Dense(head(h)) for h in hidden]):
        value = regularization.labelled_terms(
            [LabelSmoothing(0.1), RDrop(0.7)], rows, {"targets": targets, "weights": weights}
        )
        torch.testing.assert_close(value, by_hand, rtol=1e-12, atol=0)
        for ours, theirs in zip(torch.autograd.grad(value, [*hidden, head.weight]), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_a_batch_without_labels_adds_nothing_with_a_graph():
    z = logits(3, 4)
    batch = {"targets": torch.full((3,), IGNORED), "weights": torch.ones(3)}
    value = regularization.labelled_terms([LabelSmoothing(0.1), RDrop(1.0)], [Dense(z)] * 2, batch)
    assert value.item() == 0
    assert not torch.autograd.grad(value, z)[0].any()


# Moved embeddings


@pytest.fixture
def classifier(tiny) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(tiny("bert"), dtype=torch.float64)
    return model.eval()


IDS = torch.tensor([[2, 5, 6, 3, 0], [2, 7, 8, 9, 3]])
MASK = (IDS != 0).long()


def loss_of(model: Any, embeddings: torch.Tensor | None = None, rows: slice = slice(None)) -> torch.Tensor:
    read = {"input_ids": IDS[rows]} if embeddings is None else {"inputs_embeds": embeddings}
    found = model(**read, attention_mask=MASK[rows]).logits
    return functional.cross_entropy(found, torch.tensor([0, 1])[rows], reduction="sum") / 2


def test_embeddings_are_moved_along_each_rows_own_gradient(classifier):
    epsilon, fgm = 0.3, begun(Fgm(0.3), classifier)
    with fgm.on_micro_batch(repeated=False):
        loss_of(classifier).backward()
    with fgm.on_micro_batch(repeated=True):
        value = loss_of(classifier)
        value.backward()
    ours = {name: p.grad.clone() for name, p in classifier.named_parameters() if p.grad is not None}
    assert not classifier._forward_pre_hooks
    assert not fgm.table._forward_hooks

    e = classifier.get_input_embeddings()(IDS).detach().requires_grad_()
    (g,) = torch.autograd.grad(loss_of(classifier, e), e)
    r = epsilon * g / g.flatten(1).norm(dim=1)[:, None, None]
    torch.testing.assert_close(
        r.flatten(1).norm(dim=1), torch.full((2,), epsilon, dtype=torch.float64), rtol=1e-12, atol=0
    )
    classifier.zero_grad()
    table = classifier.get_input_embeddings()
    by_hand = loss_of(classifier, table(IDS) + r)
    torch.testing.assert_close(value, by_hand, rtol=1e-12, atol=0)
    assert value > loss_of(classifier)  # where the loss grows
    (loss_of(classifier) + by_hand).backward()
    for name, p in classifier.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(ours[name], p.grad, rtol=1e-9, atol=1e-12)
    for i in range(2):  # a row alone is moved as it is beside another
        one = begun(Fgm(epsilon), classifier)
        with one.on_micro_batch(repeated=False):
            loss_of(classifier, rows=slice(i, i + 1)).backward()
        torch.testing.assert_close(one._perturbation(one._shifts[0].grad)[0], r[i], rtol=1e-9, atol=1e-13)


def test_a_reference_that_is_the_student_itself_reads_what_stands_there(classifier):
    fgm = begun(Fgm(1.0), classifier)
    with fgm.on_micro_batch(repeated=False):
        loss_of(classifier).backward()
    with torch.no_grad():
        plain = loss_of(classifier)
    with fgm.on_micro_batch(repeated=True), torch.no_grad():
        assert loss_of(classifier) == plain


def test_t5_moves_what_it_reads_and_not_what_it_writes():
    model, _ = writers.writer("t5")
    model = model.double().eval()
    fgm = begun(Fgm(1.0), model)
    with fgm.on_micro_batch(repeated=False):
        model(input_ids=IDS, decoder_input_ids=IDS[:, :3]).logits.sum().backward()
    (shift,) = fgm._shifts
    assert shift.shape[:2] == IDS.shape
    assert shift.grad is not None


# 4 rows = 2 × 2


TERMS = [{"r_drop": 0.8}, {"label_smoothing": 0.2}, {"fgm": 0.5}, {"r_drop": 0.8, "label_smoothing": 0.2, "fgm": 0.5}]


def job_of(task: str, kind: str, method: str, asked: dict[str, Any], folder: Path) -> Any:
    given = families.spec(folder, task, kind, method)
    given["training"] = {**given["training"], "regularizers": asked}
    job = build.build(prepare.prepare(recipe.from_dict({**given, "output": "out"}, folder)))
    job.masks = ("r_drop" in asked) + 1 + ("fgm" in asked)  # type: ignore[attr-defined]
    return job


WRITERS = [("translation", "marian"), ("text-generation", "gpt2")]
CELLS = [(*writer, asked) for writer in WRITERS for asked in TERMS]


@pytest.mark.parametrize(("task", "kind", "asked"), wide.all_but(CELLS, [*CELLS[:1], CELLS[3], *CELLS[5:]]))
def test_four_rows_are_two_by_two(task, kind, asked, tmp_path):
    assert exact.error_of_accumulation(job_of(task, kind, "distillation", asked, tmp_path), tmp_path) < 1e-6


@pytest.mark.parametrize("asked", TERMS, ids=lambda asked: "+".join(asked))
def test_four_rows_are_two_by_two_for_classes(spec, tmp_path, asked):
    spec["training"] |= {"regularizers": asked}
    job = build.build(prepare.prepare(recipe.from_dict({**spec, "output": "out"}, tmp_path)))
    job.masks = 3  # type: ignore[attr-defined]
    if asked.keys() != TERMS[-1].keys():
        job.masks = 1 + (len(asked) == 1 and "label_smoothing" not in asked)  # type: ignore[attr-defined]
    assert exact.error_of_accumulation(job, tmp_path) < 1e-6


@pytest.mark.parametrize("kind", ["spans", "tags"])
def test_four_rows_are_two_by_two_for_places_and_tags(kind, tmp_path):
    from tests.tasks import test_question_answering, test_semantic_role_labeling

    module = {"spans": test_question_answering, "tags": test_semantic_role_labeling}[kind]
    given = module.spec(tmp_path, "fine-tuning")
    given["training"] = {**given["training"], "regularizers": {"r_drop": 0.8, "label_smoothing": 0.2, "fgm": 0.5}}
    job = build.build(prepare.prepare(recipe.from_dict({**given, "output": "out"}, tmp_path)))
    job.masks = 3  # type: ignore[attr-defined]
    assert exact.error_of_accumulation(job, tmp_path) < 1e-6


def test_matching_terms_are_averaged_over_the_passes_too(tmp_path):
    given = families.spec(tmp_path, "translation", "marian", "distillation")
    given |= {"objective": {"matching": {"hidden-states": 0.7}}, "output": "out"}
    given["training"] |= {"regularizers": {"r_drop": 0.8, "fgm": 0.5}}
    job = build.build(prepare.prepare(recipe.from_dict(given, tmp_path)))
    job.masks = 3  # type: ignore[attr-defined]
    assert exact.error_of_accumulation(job, tmp_path) < 1e-6


def rank(folder: Path, out: Path) -> None:
    trainer = in_ranks(folder, out / "run", batch=2, world=2)
    steps = step_gradients.gradients_of(trainer)
    trainer.release()
    if trainer.args.process_index == 0:
        torch.save(steps, out / "steps.pt")


def in_ranks(folder: Path, out: Path, *, batch: int, world: int) -> KeelTrainer:
    """Two passes and moved embeddings, held near another model."""
    asked = [Fgm(0.5), LabelSmoothing(0.2), RDrop(0.8)]
    trainer = step_gradients.build(folder, out, batch=batch, accumulation=1, world=world,
                                   objective=Objective(weight=0.7), regularizers=asked)  # fmt: skip
    exact.FixedMasks(trainer.model, 3)
    return trainer


def test_two_ranks_are_one(tiny, tmp_path):
    folder = tiny("bert")
    done = processes.ranks(rank, folder, tmp_path, folder=tmp_path)
    assert [one.process.exitcode for one in done] == [0, 0], "\n".join(one.text[-3000:] for one in done)
    whole = step_gradients.gradients_of(in_ranks(folder, tmp_path / "one", batch=4, world=1))
    assert step_gradients.difference(whole, torch.load(tmp_path / "steps.pt", weights_only=True)) < 1e-6


def test_a_term_that_is_dropped_or_divided_by_its_own_batch_is_seen(tmp_path, monkeypatch):
    """The traps themselves, put in."""
    job = job_of("translation", "marian", "fine-tuning", {"label_smoothing": 0.2}, tmp_path)
    whole = exact.gradients(job, tmp_path / "whole", batch=4, accumulation=1)
    genuine = regularization.labelled_terms
    for number, wrong in enumerate((lambda *a, **k: genuine(*a, **k) * 0, lambda *a, **k: genuine(*a, **k) * 2)):
        monkeypatch.setattr("keeltune.training.step_loss.labelled_terms", wrong)
        cut = exact.gradients(job, tmp_path / f"cut{number}", batch=2, accumulation=2)
        assert max(float((x - y).norm() / x.norm()) for x, y in zip(whole, cut, strict=True)) > 1e-3


def test_a_step_is_the_formula_of_two_passes_by_hand(tmp_path, tiny):
    """CE and D averaged over both passes + R-Drop over n_CE, against plain torch, in the Trainer's own step."""
    spec_of = spec_in(tiny, tmp_path)
    spec_of |= {"method": "distillation", "reference": str(tiny("bert", seed=5)), "objective": {"weight": 0.7}}
    spec_of["training"] |= {"regularizers": {"r_drop": 0.8, "label_smoothing": 0.2}}
    job = build.build(prepare.prepare(recipe.from_dict({**spec_of, "output": "out"}, tmp_path)))
    job.masks = 2  # type: ignore[attr-defined]
    (ours, *_) = exact.gradients(job, tmp_path / "steps", batch=4, accumulation=1)
    student, teacher, task = exact.still(job.model), exact.still(job.reference.model), job.material.task
    exact.FixedMasks(student, 2)
    plan = job.plan.__class__(job.plan.examples[: exact.EXAMPLES], [], batch_size=4, micro_batches=1, seed=3,
                              collate=lambda examples: exact.doubled(task.collate(examples)))  # fmt: skip
    batch = task.collate(plan.micro_batch(0, 0, 0))
    a, b = (student(**batch["inputs"]).logits.log_softmax(-1) for _ in range(2))
    q = teacher(**batch["inputs"]).logits.log_softmax(-1)
    loss = torch.zeros(())
    for p in (a, b):
        ce = functional.cross_entropy(p, batch["targets"], label_smoothing=0.2)
        loss = loss + 0.5 * ce + 0.5 * 0.7 * functional.kl_div(q, p, log_target=True, reduction="batchmean")
    for p, other in ((a, b), (b, a)):
        loss = loss + 0.8 / 2 * functional.kl_div(other, p, log_target=True, reduction="batchmean")
    loss.backward()
    by_hand = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    assert float((ours - by_hand).norm() / by_hand.norm()) < 1e-6


# Learning rates by layer


def test_rates_fall_from_the_head_to_the_embeddings(classifier):
    rates = LayerDecay(0.5).factors(classifier)
    assert len(rates) == len(list(classifier.named_parameters()))
    wanted = {"classifier": 1.0, "bert.pooler": 1.0, "bert.encoder.layer.1": 1.0, "bert.encoder.layer.0": 0.5,
              "bert.embeddings": 0.25}  # fmt: skip
    for name, rate in rates.items():
        (start,) = [start for start in wanted if name.startswith(f"{start}.")]
        assert rate == wanted[start], name


@pytest.mark.parametrize("kind", [*writers.ENCODER_DECODERS, *writers.DECODERS])
def test_each_stack_of_any_architecture_has_the_whole_range(kind):
    model, _ = writers.writer(kind)
    rates = LayerDecay(0.5).factors(model)
    for stack, length in surgery.stacks(model).items():
        for place in range(length):
            found = {rate for name, rate in rates.items() if name.startswith(f"{stack}.{place}.")}
            assert found == {0.5 ** (length - 1 - place)}
    tables = {id(p) for table in vocabulary.token_tables(model) for p in table.parameters()}
    assert {rates[name] for name, p in model.named_parameters() if id(p) in tables} == {0.25}
    norms = [name for name in rates if "final" in name.split(".")[-2] or name.split(".")[-2] in ("norm", "ln_f")]
    outside = [n for n in norms if not any(n.startswith(f"{s}.") for s in surgery.stacks(model))]
    assert {rates[name] for name in outside} <= {1.0}


def test_groups_keep_their_weight_decay_and_every_parameter(classifier):
    decays, plain = [], []
    for name, parameter in classifier.named_parameters():
        (plain if "bias" in name else decays).append(parameter)
    groups = [{"params": decays, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    decay = LayerDecay(0.5)
    decay.begin(classifier)
    decay.on_optimizer(optimizer)
    rates = decay.factors(classifier)
    of = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(of) == len(rates)
    for name, parameter in classifier.named_parameters():
        assert of[id(parameter)] == (pytest.approx(1e-2 * rates[name]), 0.0 if "bias" in name else 0.01)
    assert optimizer.param_groups[0]["lr"] == 1e-2  # the one that is logged


# The average of the weights


def test_the_average_is_the_weighted_mean_of_the_weights_after_each_step():
    model = torch.nn.Linear(2, 1).double()
    average, seen = begun(WeightAverage(0.8), model), []
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.add_(torch.full((1, 2), float(step**2)).double())
        seen.append(model.weight.detach().clone())
        average.on_step_end(step, 5)
    weights = [0.8 ** (5 - i) for i in range(1, 6)]
    by_hand = sum(w * x for w, x in zip(weights, seen, strict=True)) / sum(weights)
    torch.testing.assert_close(average.state()["weight"], by_hand, rtol=1e-12, atol=0)
    last = model.weight
    with put_back(model):
        average.on_evaluate()
        torch.testing.assert_close(model.weight.data, by_hand, rtol=1e-12, atol=0)
    assert model.weight is last
    assert torch.equal(model.weight, seen[-1])
    assert [WeightAverage("auto").beta(n) for n in (5, 10, 50, 100_000)] == [0, 0, pytest.approx(0.8), 0.999]


# Whole runs


def spec_in(tiny, folder: Path) -> dict[str, Any]:
    rows = make_reviews("films", 60, seed=1)
    for name, part in (("train", rows[:40]), ("validation", rows[40:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return {
        "task": "sentiment-analysis", "method": "fine-tuning", "model": str(tiny("bert", seed=3)),
        "data": {"train": "train.jsonl", "validation": "validation.jsonl"},
        "training": {"epochs": 2, "batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-3,
                     "precision": "fp32", "save_steps": 3},
        "evaluation": {"every": 4},
    }  # fmt: skip


@pytest.fixture
def spec(tiny, tmp_path) -> dict[str, Any]:
    return spec_in(tiny, tmp_path)


def train(
    spec: dict[str, Any], folder: Path, output: str, asked: dict[str, Any] | None = None, **how: Any
) -> run_folder.Run:
    training = {**spec["training"], **({} if asked is None else {"regularizers": asked})}
    return run.train(recipe.from_dict({**spec, "training": training, "output": output}, folder), display=QUIET, **how)


def weights(done: run_folder.Run) -> dict[str, torch.Tensor]:
    return load_file(done.model / "model.safetensors")


def test_a_killed_run_goes_on_bit_for_bit_with_all_of_them(spec, tmp_path, monkeypatch):
    steps = (5, 8)
    with monkeypatch.context() as patch:
        copy_at(patch, {step: (tmp_path / "whole", tmp_path / f"at-{step}") for step in steps})
        whole = train(spec, tmp_path, "whole", ALL)
    for step in steps:
        again = train(spec, tmp_path, f"at-{step}", ALL, resume=True)
        assert same(whole.folder, again.folder)
        assert (whole.folder / "log.jsonl").read_text() == (again.folder / "log.jsonl").read_text()
        assert whole.result["objective"] == again.result["objective"]
        assert whole.result["metrics"] == again.result["metrics"]


def test_each_of_them_changes_a_run_and_is_named_in_it(spec, tmp_path):
    spec["data"] = {"train": "train.jsonl"}  # what is measured while they train is another test's
    spec["training"] |= {"epochs": 1}
    del spec["evaluation"], spec["training"]["save_steps"]
    plain = train(spec, tmp_path, "plain")
    off = train(spec, tmp_path, "off", {name: None for name in ALL if name != "freeze_embeddings"})
    assert same(plain.folder, off.folder)
    assert (plain.folder / "log.jsonl").read_text() == (off.folder / "log.jsonl").read_text()
    assert "regularizers" not in off.result["training"]
    assert {*ALL, "l2_sp", "spec_augment"} == set(
        regularizer_names()
    )  # (of sound: test_spec_augment.py)  a new file of the shelf needs a value here
    for name, value in (ALL | {"l2_sp": 0.5}).items():
        done = train(spec, tmp_path, name, {name: value})
        assert not same(plain.folder, done.folder), name
        assert done.result["training"]["regularizers"] == {name: value}
        assert "Regularised by: " in (done.folder / "report.html").read_text()
        assert "Regularised by: " in (done.model / "README.md").read_text()


def test_what_is_reported_is_not_smoothed(spec, tmp_path):
    """At a rate that moves nothing the reported cross-entropy is the plain one, and the loss is the smoothed one."""
    spec["training"] |= {"learning_rate": 1e-12, "logging_steps": 1}
    entries = []
    for name, asked in (("plain", None), ("smooth", {"label_smoothing": 0.3})):
        done = train(spec, tmp_path, name, asked)
        lines = [json.loads(line) for line in (done.folder / "log.jsonl").read_text().splitlines()]
        entries.append([line for line in lines if "loss" in line])
    for plain, smooth in zip(*entries, strict=True):
        assert smooth["cross_entropy"] == plain["cross_entropy"]
        assert smooth["loss"] != smooth["cross_entropy"]


@pytest.mark.parametrize("validates", [True, False])
def test_the_average_is_what_is_measured_and_kept(spec, tmp_path, monkeypatch, validates):
    """With and without validation rows the saved weights are the mean of the steps', not the last step's."""
    seen: list[dict[str, torch.Tensor]] = []
    original = WeightAverage.on_step_end

    def noting(self, step, steps):
        seen.append({name: p.detach().clone() for name, p in self.model.named_parameters()})
        original(self, step, steps)

    monkeypatch.setattr(WeightAverage, "on_step_end", noting)
    spec["evaluation"] = {"every": 10}  # one evaluation, after the last step: those are the best weights
    if not validates:
        spec["data"] = {"train": "train.jsonl"}
        spec.pop("evaluation")
    done = train(spec, tmp_path, "out", {"weight_average": 0.7})
    share = [0.7 ** (len(seen) - i) for i in range(1, len(seen) + 1)]
    for name, value in weights(done).items():
        by_hand = sum(s * each[name].double() for s, each in zip(share, seen, strict=True)) / sum(share)
        torch.testing.assert_close(value.double(), by_hand, rtol=1e-4, atol=1e-7)
    assert done.result["training"]["regularizers"] == {"weight_average": 0.7}
    if validates:
        lines = [json.loads(line) for line in (done.folder / "log.jsonl").read_text().splitlines()]
        (measured,) = [line["eval_loss"] for line in lines if "eval_loss" in line]
        assert measured == pytest.approx(done.result["metrics"]["validation"]["loss"], rel=1e-6)


def test_a_budget_bounds_the_average(spec, tmp_path, monkeypatch):
    """What a budget measures while it trains is the model that will be kept, not the one that trains on."""
    inside: list[bool] = []
    original, now = KeelTrainer.averaged, [False]

    @contextmanager
    def noting(self):
        with original(self):
            now[0] = True
            yield
            now[0] = False

    measured = DualAscent.on_step_end

    def watching(self, args, state, control, **kwargs):
        measure = self.trainer.budget.measure
        budget = replace(self.trainer.budget, measure=lambda: inside.append(now[0]) or measure())
        monkeypatch.setattr(self.trainer, "budget", budget)
        measured(self, args, state, control, **kwargs)
        monkeypatch.setattr(self.trainer, "budget", replace(budget, measure=measure))

    monkeypatch.setattr(KeelTrainer, "averaged", noting)
    monkeypatch.setattr(DualAscent, "on_step_end", watching)
    spec |= {"method": "cross-domain", "objective": {"weight": {"max_kl": 0.05}}}
    done = train(spec, tmp_path, "out", {"weight_average": 0.7})
    assert done.result["budget"]["kind"] == "max_kl"
    assert inside
    assert all(inside)


def test_checkpointed_activations_change_nothing(spec, tmp_path):
    asked = {"r_drop": 1.0, "fgm": 1.0}
    plain = train(spec, tmp_path, "plain", asked)
    spec["training"] |= {"gradient_checkpointing": True}
    cheap = train(spec, tmp_path, "cheap", asked)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(cheap)[name], value, rtol=1e-4, atol=1e-6)


def test_new_layers_are_the_models_own_draw_and_the_rest_is_as_it_was(spec, tmp_path):
    given = {**spec, "output": "out", "training": {**spec["training"], "regularizers": {"new_top_layers": 1}}}
    made = prepare.prepare(recipe.from_dict(given, tmp_path))
    before = torch.random.get_rng_state()
    student = initial_student(made)
    assert torch.equal(before, torch.random.get_rng_state())
    plain = AutoModelForSequenceClassification.from_pretrained(spec["model"]).state_dict()
    again = initial_student(made).model.state_dict()
    changed = {name for name, value in student.model.state_dict().items() if not torch.equal(value, plain[name])}
    assert {name.split(".layer.1.")[0] for name in changed} == {"bert.encoder", "bert.pooler.dense.weight"}
    assert set(student.fresh) >= changed
    assert all(torch.equal(value, again[name]) for name, value in student.model.state_dict().items())
    deviation = student.model.bert.encoder.layer[1].intermediate.dense.weight.std().item()
    assert deviation == pytest.approx(student.model.config.initializer_range, rel=0.1)


def test_frozen_tables_stay_and_a_tied_head_with_them(spec, tmp_path):
    stored = load_file(Path(spec["model"]) / "model.safetensors")
    done = weights(train(spec, tmp_path, "out", {"freeze_embeddings": True}))
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(done[name], stored[name])
    other = "bert.embeddings.position_embeddings.weight"
    assert not torch.equal(done[other], stored[other])
    model, _ = writers.writer("gpt2")
    assert "tied" in FreezeEmbeddings(True).on_model(model)
    assert not model.lm_head.weight.requires_grad
    both, _ = writers.writer("t5")
    FreezeEmbeddings(True).on_model(both)
    assert not any(table.weight.requires_grad for table in vocabulary.token_tables(both))


def test_frozen_parts_stay_and_all_else_trains(spec, tmp_path):
    stored = load_file(Path(spec["model"]) / "model.safetensors")
    done = weights(train(spec, tmp_path, "out", {"freeze": ["layer.0", "word_embeddings"]}))
    same = {name for name, weight in stored.items() if torch.equal(weight, done[name])}
    expected = {name for name in stored if ".layer.0." in name or ".word_embeddings." in name}
    assert expected <= same
    assert not {name for name in same - expected if "bias" not in name}  # a key's bias moves no attention


def test_what_a_frozen_part_shares_with_another_trains_on():
    """The embeddings that a T5's encoder shares with its decoder; its own layers do not."""
    model, _ = writers.writer("t5")
    Freeze(["encoder"]).on_model(model)
    assert model.shared.weight.requires_grad and model.decoder.block[0].layer[0].SelfAttention.q.weight.requires_grad
    assert not any(weight.requires_grad for weight in model.encoder.block.parameters())


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_an_anchored_run_takes_them_too(spec, tmp_path, lora):
    asked = {name: ALL[name] for name in ("layer_decay", "r_drop", "weight_average", "label_smoothing", "fgm")}
    spec |= {"method": "cross-domain"}
    spec["training"] |= {"lora": lora}
    done = train(spec, tmp_path, "out", asked)
    assert done.result["reference"]["kind"] == ("model" if lora is None else "adapter-off")
    assert done.result["objective"]["divergence"] >= 0
    assert set(done.result["training"]["regularizers"]) == set(asked)


# What has no meaning


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        ({"method": "cross-domain", "training": {"regularizers": {"new_top_layers": 1}}}, "new_top_layers", "source"),
        ({"training": {"lora": {}, "regularizers": {"new_top_layers": 1}}}, "new_top_layers", "adapters"),
        ({"training": {"lora": {}, "regularizers": {"freeze_embeddings": True}}}, "freeze_embeddings", "adapters"),
        ({"training": {"interpolate": 0.5, "regularizers": {"new_top_layers": 1}}}, "new_top_layers", "interpolate"),
        ({"training": {"regularizers": {"new_top_layers": 9}}}, "new_top_layers", "at most 2"),
        ({"training": {"regularizers": {"layer_decay": 1.5}}}, "layer_decay", "less than 1"),
        ({"training": {"regularizers": {"dropout": 0.1}}}, "dropout", f"one of: {', '.join(regularizer_names())}"),
    ],
)
def test_a_combination_without_meaning_is_refused(spec, tmp_path, change, field, expected):
    with pytest.raises(UserError) as refused:
        prepare.prepare(recipe.from_dict({**spec, **change, "output": "out"}, tmp_path))
    (problem,) = refused.value.problems
    assert problem.field == f"training.regularizers.{field}"
    assert expected in problem.expected
    assert problem.found
    assert problem.fix


def test_a_distillation_without_labels_has_no_term_of_labels(spec, tmp_path, tiny):
    spec |= {"method": "distillation", "reference": str(tiny("bert", seed=5)), "data": {"unlabeled": "train.jsonl"}}
    spec.pop("evaluation")
    asked = {"r_drop": 1.0, "label_smoothing": 0.1}
    with pytest.raises(UserError) as refused:
        recipe.from_dict({**spec, "training": {"regularizers": asked}, "output": "out"}, tmp_path)
    assert {p.field.rsplit(".", 1)[1] for p in refused.value.problems} == set(asked)


def test_a_model_that_drops_nothing_out_has_no_r_drop(spec, tmp_path):
    still = tmp_path / "still"
    model = AutoModelForSequenceClassification.from_pretrained(spec["model"])
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(still)
    for file in Path(spec["model"]).glob("tokenizer*"):
        (still / file.name).write_bytes(file.read_bytes())
    spec |= {"model": str(still), "training": {"regularizers": {"r_drop": 1.0}}, "output": "out"}
    with pytest.raises(UserError, match="dropout"):
        prepare.prepare(recipe.from_dict(spec, tmp_path))
    assert surgery.drops_out(AutoConfig.from_pretrained(Path(recipe.from_dict(spec, tmp_path).model))) is False


@pytest.mark.parametrize(
    ("kind", "asked", "word"),
    [
        ("ctc", {"label_smoothing": 0.1, "r_drop": 1.0}, "alignments"),
        ("whisper", {"fgm": 1.0, "freeze_embeddings": True}, "sound"),
    ],
)
def test_sound_has_no_embeddings_and_alignments_no_labels(kind, asked, word, tmp_path):

    given = speakers.spec(tmp_path, "wav2vec2" if kind == "ctc" else kind, "fine-tuning")
    given["training"] = {**given["training"], "regularizers": asked}
    with pytest.raises(UserError) as refused:
        prepare.prepare(recipe.from_dict({**given, "output": "out"}, tmp_path))
    assert {p.field.rsplit(".", 1)[1] for p in refused.value.problems} == set(asked)
    assert all(word in p.expected for p in refused.value.problems)


@pytest.mark.parametrize(("task", "kind"), wide.all_but(WRITERS, WRITERS[:1]))
def test_models_that_write_take_all_of_them_and_go_on_bit_for_bit(task, kind, tmp_path, monkeypatch):
    given = families.spec(tmp_path, task, kind, "distillation")
    with monkeypatch.context() as patch:
        copy_at(patch, {4: (tmp_path / "whole", tmp_path / "killed")})
        whole = train(given, tmp_path, "whole", ALL)
    assert same(whole.folder, train(given, tmp_path, "killed", ALL, resume=True).folder)


def test_bf16_moves_embeddings_in_float32(spec, tmp_path):
    spec["training"] |= {"precision": "bf16"}
    done = train(spec, tmp_path, "out", {"fgm": 1.0, "r_drop": 1.0, "label_smoothing": 0.1})
    assert done.result["training"]["precision"] == "bf16"
    assert all(value.isfinite().all() for value in weights(done).values())


def test_the_defaults_are_off():
    assert Regularizers().used == {}
    assert copy.deepcopy(Regularizers()).used == {}
    assert KeelTrainer.training_step.__doc__
