"""The start-up self-test passes for real architectures, and fails when a trap is put in."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from keeltune.data.dataset import Row
from keeltune.objective.divergences import reverse_kl
from keeltune.objective.formula import Objective, find_divergence
from keeltune.objective.predictions import Dense
from keeltune.objective.references.model import Model
from keeltune.tasks.task import Settings
from keeltune.training.self_test import self_test
from keeltune.utils import registry
from tests.helpers.models import ARCHITECTURES

LABELS = ["negative", "neutral", "positive"]
TEXTS = ["the film is good", "a very long and dull plot but not bad", "bad", "it was fine"]


def build(tiny, architecture: str = "bert"):
    """(student, task, reference, batch); one row has no label."""
    folder = tiny(architecture, tuple(LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model.config.pad_token_id = tokenizer.pad_token_id
    task = registry.find("tasks", "text-classification")(tokenizer, Settings(LABELS))
    rows = [Row({"text": text, "label": LABELS[i % 3]}, "f", i + 1, f"k{i}") for i, text in enumerate(TEXTS)]
    batch = task.collate([e for i, row in enumerate(rows) for e in task.encode(row, labelled=i != 1)])
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model, task, Model(teacher, task.rows), batch


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("anchored", [False, True])
def test_it_passes_and_leaves_no_trace(tiny, architecture, anchored):
    model, task, reference, batch = build(tiny, architecture)
    batch["anchored"] = torch.full_like(batch["anchored"], anchored)
    random, before = torch.get_rng_state(), batch["anchored"].clone()
    for mode in (True, False):
        model.train(mode)
        self_test(model, task, Objective(weight=0.3, temperature=2.0, per_label=True), reference, batch)
        self_test(model, task, Objective(), None, batch)
        assert all(module.training == mode for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(batch["anchored"], before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", registry.names("divergences"))
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_passes_for_every_divergence(tiny, name, temperature):
    model, task, reference, batch = build(tiny)
    self_test(model, task, Objective(name, weight=0.7, temperature=temperature), reference, batch)


@pytest.mark.parametrize("beta", [0.0, 0.01, 0.1, 0.9, 1.0])
def test_it_passes_for_a_skewed_jensen_shannon(tiny, beta):
    model, task, reference, batch = build(tiny)
    self_test(model, task, Objective(find_divergence("jensen-shannon", beta=beta)), reference, batch)


def test_a_small_divergence_beside_a_large_cross_entropy_passes(tiny):
    """The difference of two losses in float32 is only as fine as the larger of them."""
    model, task, reference, batch = build(tiny)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([-300.0, 0.0, 300.0]))
    self_test(model, task, Objective(weight=0.01), reference, batch)


def test_a_hidden_cross_entropy_is_seen(tiny):
    model, task, reference, batch = build(tiny)

    def hidden(student, reference):
        return reverse_kl(student, reference) - 0.1 * student[:, 0]

    with pytest.raises(AssertionError, match="divergence of the student from itself"):
        self_test(model, task, Objective(hidden), reference, batch)


def test_a_cross_entropy_in_place_of_a_divergence_is_seen(tiny):
    model, task, reference, batch = build(tiny)
    with pytest.raises(AssertionError, match="divergence of the student from itself"):
        self_test(model, task, Objective(lambda p, q: -(q.exp() * p).sum(-1)), reference, batch)


@pytest.mark.parametrize("factor", [2.0, 0.5, 0.0])
@pytest.mark.parametrize("name", ["reverse-kl", "forward-kl"])
def test_a_wrong_factor_or_a_dropped_reference_is_seen(tiny, monkeypatch, factor, name):
    model, task, reference, batch = build(tiny)
    total = Objective.total
    monkeypatch.setattr(Objective, "total", lambda self, *a: factor * total(self, *a))
    with pytest.raises(AssertionError, match="divergence of the student from uniform"):
        self_test(model, task, Objective(name), reference, batch)


def test_a_reference_that_does_not_reach_the_loss_is_seen(tiny, monkeypatch):
    model, task, reference, batch = build(tiny)
    whole = Objective.__call__

    def dropped(self, cross_entropy, student, reference=None, anchored=None, *, counts):
        return whole(self, cross_entropy, student, None, anchored, counts=counts)

    monkeypatch.setattr(Objective, "__call__", dropped)
    with pytest.raises(AssertionError, match="loss moved by the divergence"):
        self_test(model, task, Objective(), reference, batch)


def test_counts_of_unlabelled_rows_are_seen(tiny, monkeypatch):
    model, task, reference, batch = build(tiny)
    monkeypatch.setattr(task, "counts", lambda b: (float(len(b["targets"])), float(b["anchored"].sum())))
    with pytest.raises(AssertionError, match=r"labelled predictions is 4.0, expected 3.0"):
        self_test(model, task, Objective(), reference, batch)


def test_rows_of_another_number_are_seen(tiny, monkeypatch):
    model, task, reference, batch = build(tiny)
    batch["anchored"] = torch.ones_like(batch["anchored"])
    short = Model(reference.model, lambda outputs, b: Dense(outputs.logits[:-1]))
    with pytest.raises(AssertionError, match=r"predictions of the reference is 3, expected 4"):
        self_test(model, task, Objective(), short, batch)
    monkeypatch.setattr(type(task), "rows", lambda self, outputs, b, order=None: Dense(outputs.logits[1:]))
    with pytest.raises(AssertionError, match=r"predictions of the student is 3, expected 4"):
        self_test(model, task, Objective(), None, batch)


def test_a_dropped_reference_is_seen_where_the_student_is_uniform(tiny, monkeypatch):
    """A head that starts at zero is uniform: nothing would move the loss towards uniform, right or wrong."""
    model, task, reference, batch = build(tiny)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.zero_()
    self_test(model, task, Objective(weight=0.01), reference, batch)
    original = Objective.__call__
    monkeypatch.setattr(
        Objective, "__call__", lambda self, ce, student, *_, counts: original(self, ce, student, counts=counts)
    )
    with pytest.raises(AssertionError, match="moved"):
        self_test(model, task, Objective(weight=0.01), reference, batch)
