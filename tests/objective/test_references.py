"""References: another model, several, or the student without its adapter; frozen, and leaving no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from keeltune.data.dataset import Row
from keeltune.objective.formula import Objective
from keeltune.objective.predictions import Dense, Rows
from keeltune.objective.references.adapter_off import AdapterOff
from keeltune.objective.references.ensemble import Ensemble
from keeltune.objective.references.model import Model
from keeltune.objective.references.reference import Reference
from keeltune.tasks.common.settings import Settings
from keeltune.utils.registry import find

LABELS = ["negative", "positive"]
TEXTS = ["the film is good", "a very long and dull plot but not bad in it", "bad"]


@pytest.fixture
def bench(tiny):
    """(base model, task, a batch of uneven lengths)."""
    folder = tiny("bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():  # fresh weights are so small that no input matters
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    task = find("tasks", "text-classification")(AutoTokenizer.from_pretrained(folder), Settings(LABELS))
    rows = [Row({"text": text, "label": LABELS[i % 2]}, "f", i + 1, f"k{i}") for i, text in enumerate(TEXTS)]
    return model, task, task.collate([e for row in rows for e in task.encode(row)])


def adapted(model) -> torch.nn.Module:
    """LoRA and a trained head on a copy of `model`, moved away from the start; each module with a mode of its own."""
    torch.manual_seed(3)
    config = LoraConfig(task_type="SEQ_CLS", r=4, lora_dropout=0.5, target_modules=["query", "value"])
    student = get_peft_model(copy.deepcopy(model), config)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    student.train()
    for i, module in enumerate(m for m in student.modules() if isinstance(m, torch.nn.Dropout)):
        module.training = i % 2 == 0
    return student


def make(kind: str, model, task) -> tuple[Reference, torch.nn.Module]:
    """A reference, and the module that it runs or shares."""
    student = adapted(model)
    if kind == "adapter-off":
        return AdapterOff(student, task.rows), student
    if kind == "model":
        return Model(model, task.rows), student
    return Ensemble([Model(model, task.rows), AdapterOff(student, task.rows)]), student


def log_probs(rows: Rows) -> torch.Tensor:
    return rows.log_probs(slice(None))


@pytest.mark.parametrize("kind", ["model", "ensemble", "adapter-off"])
def test_a_reference_is_frozen_repeatable_and_leaves_no_trace(bench, kind):
    model, task, batch = bench
    reference, student = make(kind, model, task)
    assert reference.kind == kind
    modes = [module.training for module in student.modules()]
    trainable = [name for name, p in student.named_parameters() if p.requires_grad]
    random = torch.get_rng_state()
    first, again = log_probs(reference.rows(batch)), log_probs(reference.rows(batch))
    assert not first.requires_grad
    assert torch.equal(first, again)
    assert len(reference.rows(batch)) == len(batch["targets"])
    assert [module.training for module in student.modules()] == modes
    assert [name for name, p in student.named_parameters() if p.requires_grad] == trainable
    assert torch.equal(torch.get_rng_state(), random)


def test_a_model_reference_holds_no_gradient(bench):
    model, task, batch = bench
    reference = Model(model.train(), task.rows)
    assert not any(p.requires_grad for p in reference.model.parameters())
    student = adapted(model)
    Objective().total(task.rows(student(**batch["inputs"]), batch), reference.rows(batch)).backward()
    assert all(p.grad is None for p in model.parameters())
    assert any(p.grad is not None and p.grad.any() for p in student.parameters())


def test_adapter_off_is_the_model_that_training_started_from(bench):
    model, task, batch = bench
    student = adapted(model)
    off = log_probs(AdapterOff(student, task.rows).rows(batch))
    start = log_probs(Model(copy.deepcopy(model), task.rows).rows(batch))
    torch.testing.assert_close(off, start, rtol=0, atol=1e-6)
    now = log_probs(task.rows(student.eval()(**batch["inputs"]), batch))
    assert (now - start).abs().max() > 1e-2  # switched on again, and it had moved


def test_adapter_off_is_back_in_its_mode_after_an_error(bench):
    model, task, batch = bench
    student = adapted(model)
    modes = [module.training for module in student.modules()]
    with pytest.raises((TypeError, ValueError)):
        AdapterOff(student, task.rows).rows({"inputs": {"nonsense": batch["inputs"]["input_ids"]}})
    assert [module.training for module in student.modules()] == modes
    student.eval()
    on = log_probs(task.rows(student(**batch["inputs"]), batch))
    assert (on - log_probs(Model(model, task.rows).rows(batch))).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["model", "ensemble", "adapter-off"])
def test_a_reference_gets_every_input_the_student_gets(bench, kind):
    model, task, batch = bench
    reference, student = make(kind, model, task)
    seen: list[set[str]] = []
    for module in (model, student):
        module.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    answer = log_probs(reference.rows(batch))
    assert seen
    assert all(set(batch["inputs"]) <= keys for keys in seen)
    blind = {**batch, "inputs": {k: v for k, v in batch["inputs"].items() if k != "attention_mask"}}
    assert (log_probs(reference.rows(blind)) - answer).abs().max() > 1e-3  # short rows would read their padding


def test_a_reference_with_an_encoding_of_its_own_reads_that(bench):
    model, task, batch = bench
    other = {**batch["inputs"], "input_ids": batch["inputs"]["input_ids"].flip(0)}
    mine = log_probs(Model(model, task.rows, entry="theirs").rows({**batch, "theirs": {**batch, "inputs": other}}))
    assert torch.equal(mine, log_probs(Model(model, task.rows).rows({**batch, "inputs": other})))


def test_a_temperature_divides_a_models_logits_first(bench):
    model, task, batch = bench
    logits = log_probs(Model(model, task.rows).rows(batch))
    rows = Model(model, task.rows, temperature=1.8).rows(batch)
    assert (len(rows), rows.choices) == logits.shape
    torch.testing.assert_close(log_probs(rows), (logits / 1.8).log_softmax(-1))
    torch.testing.assert_close(rows.log_probs(slice(1, 3), 2.0), (logits[1:3] / 3.6).log_softmax(-1))
    torch.testing.assert_close(rows.use(slice(None), torch.exp, 2.0), (logits / 3.6).softmax(-1))
    assert rows.comparable(logits, slice(None)) is logits
    mixed = log_probs(Ensemble([Model(model, task.rows, temperature=1.8), Model(model, task.rows)]).rows(batch)).exp()
    torch.testing.assert_close(mixed, ((logits / 1.8).softmax(-1) + logits.exp()) / 2)


class Fixed(Reference):
    kind = "fixed"

    def __init__(self, probabilities: list[list[float]]):
        self.logits = torch.tensor(probabilities, dtype=torch.float64).log()

    def rows(self, batch) -> Rows:
        return Dense(self.logits)


@pytest.mark.parametrize(("weights", "shares"), [(None, (0.5, 0.5)), ((3, 1), (0.75, 0.25)), ((0.2, 0.8), (0.2, 0.8))])
def test_an_ensemble_is_the_mean_of_probabilities(weights, shares):
    a, b = [[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]], [[0.1, 0.8, 0.1], [0.6, 0.2, 0.2]]
    found = log_probs(Ensemble([Fixed(a), Fixed(b)], weights).rows({})).exp()
    expected = shares[0] * torch.tensor(a).double() + shares[1] * torch.tensor(b).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    logits = shares[0] * Fixed(a).logits[1] + shares[1] * Fixed(b).logits[1]
    assert (logits.softmax(-1) - found[1]).abs().max() > 1e-3  # not the mean of logits


def test_a_temperature_is_applied_to_the_ensemble_not_to_its_members():
    a, b = [[0.9, 0.1]], [[0.4, 0.6]]
    found = Ensemble([Fixed(a), Fixed(b)]).rows({}).log_probs(slice(None), 2.0)
    mean = torch.tensor([[0.65, 0.35]], dtype=torch.float64)
    torch.testing.assert_close(found, (mean.log() / 2).log_softmax(-1), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("members", "weights"), [(0, None), (2, [1.0]), (2, [1.0, 0.0]), (2, [1.0, -1.0])])
def test_an_ensemble_without_sense_is_refused(members, weights):
    with pytest.raises(ValueError, match="expected"):
        Ensemble([Fixed([[0.5, 0.5]])] * members, weights)


def test_members_with_other_predictions_are_refused():
    with pytest.raises(ValueError, match="found references with other predictions than each other"):
        Ensemble([Fixed([[0.5, 0.5]]), Fixed([[0.5, 0.5]] * 2)]).rows({})
