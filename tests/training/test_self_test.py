"""The start-up self-test passes for real architectures, and fails when a trap is put in."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from keeltune.data.dataset import Row
from keeltune.objective import predictions
from keeltune.objective.divergences import reverse_kl
from keeltune.objective.formula import Objective, find_divergence
from keeltune.objective.predictions import Dense
from keeltune.objective.references.model import Model
from keeltune.tasks.common.settings import Settings
from keeltune.training.self_test import mass_rounding, self_test
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


# A large vocabulary


class Logits(torch.nn.Module):
    """Stands for a model: its logits are given."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, **inputs: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)


def summed_in_lanes(lanes: int):
    """log softmax in float32 with the V terms summed one after the other in so many lanes: what a machine may do."""

    def log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
        if logits.dtype != torch.float32:
            return torch.log_softmax(logits / temperature, dim=-1)
        z = (logits / temperature).numpy()
        z = z - z.max(-1, keepdims=True)
        terms = np.exp(z)[:, : z.shape[-1] // lanes * lanes].reshape(len(z), -1, lanes)
        total = terms.cumsum(1, dtype=np.float32)[:, -1].sum(-1, keepdims=True, dtype=np.float32)
        total += np.exp(z)[:, z.shape[-1] // lanes * lanes :].sum(-1, keepdims=True, dtype=np.float32)
        return torch.from_numpy(z - np.log(total, dtype=np.float32))

    return log_softmax


def large(tiny, choices: int, spread: float):
    """(student, task, reference, batch) of so many choices, logits normal with so small a spread: D from uniform is
    spread² / 2."""
    _, task, _, batch = build(tiny)
    random = torch.Generator().manual_seed(0)
    student, teacher = (Logits(spread * torch.randn(4, choices, generator=random)) for _ in range(2))
    return student, task, Model(teacher, task.rows), batch


@pytest.mark.parametrize("name", ["reverse-kl", "forward-kl", "jensen-shannon"])
@pytest.mark.parametrize("lanes", [None, 1, 8, 16])
@pytest.mark.parametrize("choices", [65_536, 140_000])
def test_a_large_vocabulary_and_a_student_that_is_nearly_uniform_pass(tiny, monkeypatch, name, lanes, choices):
    """Whatever the order in which the machine sums: D from uniform is 0.004 here, V · u is 0.004 and more."""
    if lanes is not None:
        monkeypatch.setattr(predictions, "log_softmax", summed_in_lanes(lanes))
    model, task, reference, batch = large(tiny, choices, 0.09)
    self_test(model, task, Objective(name, weight=0.3), reference, batch)


@pytest.mark.parametrize("factor", [2.0, 0.5, 0.0, 1.001])
def test_a_wrong_factor_is_seen_in_a_large_vocabulary(tiny, monkeypatch, factor):
    model, task, reference, batch = large(tiny, 65_536, 0.09)
    total = Objective.total
    monkeypatch.setattr(Objective, "total", lambda self, *a: factor * total(self, *a))
    with pytest.raises(AssertionError, match="divergence of the student from uniform"):
        self_test(model, task, Objective(), reference, batch)


@pytest.mark.parametrize("choices", [3, 1000, 65_536, 140_000])
def test_probabilities_that_do_not_sum_to_1_are_seen(tiny, monkeypatch, choices):
    """Not normalised at all, or rounded to bf16; and what float32 leaves is within the bound."""
    model, task, reference, batch = large(tiny, choices, 3.0)
    exact = model.logits.detach().log_softmax(-1).double().logsumexp(-1).abs().max().item()
    assert exact <= mass_rounding(choices) < math.log(choices)
    log_softmax = predictions.log_softmax
    wrong = [lambda logits: logits, lambda logits: logits.log_softmax(-1).bfloat16()]
    for spoilt in wrong[: 2 if choices <= 1000 else 1]:  # over many choices the roundings of bf16 cancel in the sum
        monkeypatch.setattr(
            predictions, "log_softmax", lambda z, t, f=spoilt: f(z) if z.dtype == torch.float32 else log_softmax(z, t)
        )
        with pytest.raises(AssertionError, match="sum of the student's probabilities"):
            self_test(model, task, Objective(), reference, batch)
