"""Packing: the same loss and gradient without the padding, on the models that it fits and no others."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
import transformers

import keeltune as kt
from keeltune import recipe
from keeltune.objective.formula import Objective
from keeltune.objective.references.model import Model
from keeltune.tasks.common import lm_head, packing
from keeltune.tasks.task import Task
from keeltune.training.preparation.prepare import prepare
from keeltune.training.step_loss import StepLoss
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import writers
from tests.helpers.interruption import Killed, kill_at, same
from tests.helpers.runs import lines

QUIET = Display(quiet=True)
ARCHITECTURES = ("gpt2", "llama", "qwen2", "windowed", "gemma2")


def pair(architecture: str, task: str, seed: int = 0) -> tuple[torch.nn.Module, Task, Task]:
    """A float64 model, its task as it is and packed; `windowed`: Mistral whose attention reaches four tokens back."""
    model, plain = writers.writer("mistral" if architecture == "windowed" else architecture, seed=seed, task=task)
    if architecture == "windowed":
        model.config.sliding_window = 4
    model = model.double()
    return model, plain, type(plain)(plain.processor, replace(plain.settings, packing=True))


def gradient(model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def examples_of(task: Task, name: str) -> list:
    examples = [e for row in writers.rows(name) for e in task.encode(row)]
    return [replace(e, anchored=i % 3 != 0) for i, e in enumerate(examples)]


@pytest.mark.parametrize("name", ["text-generation", "summarization"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_step_is_the_same_whole_packed_and_packed_in_two(architecture, name):
    """With a reference on some of the rows, and divided by the counts of the step as unpacked."""
    model, plain, shorter = pair(architecture, name)
    teacher = pair(architecture, name, seed=1)[0]
    examples = examples_of(plain, name)

    def step(task: Task, cuts: int) -> tuple[float, float, torch.Tensor, list]:
        loss = StepLoss(task, Objective("reverse-kl", weight=0.7), Model(teacher, task.rows, forward=task.forward))
        parts = [task.collate_anchored(examples[i::cuts]) for i in range(cuts)]
        counts = torch.tensor([[*loss.counts(part), len(part["keys"])] for part in parts], dtype=torch.float64).sum(0)
        losses = [loss(model, part, counts, micro_batches=cuts) for part in parts]
        total = torch.stack([one.total for one in losses]).sum()
        return total.item(), counts.tolist(), gradient(model, total), [part["work"] for part in parts]

    value, counts, slope, work = step(plain, 1)
    for cuts in (1, 2):
        value_now, counts_now, slope_now, work_now = step(shorter, cuts)
        assert value_now == pytest.approx(value, rel=1e-9)
        assert counts_now == counts
        assert (slope_now - slope).norm() <= 1e-6 * slope.norm()
        assert sum(tokens for tokens, _ in work_now) == work[0][0]
        assert sum(slots for _, slots in work_now) < 0.9 * work[0][1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_text_has_the_loss_that_transformers_gives_it_alone(architecture):
    model, _, shorter = pair(architecture, "text-generation")
    examples = examples_of(shorter, "text-generation")
    batch = shorter.collate(examples)
    with torch.no_grad():
        ours = shorter.losses(shorter.rows(shorter.forward(model, batch), batch), batch)
        for example, loss in zip(examples, ours, strict=True):
            logits = model(input_ids=torch.tensor([example.inputs["input_ids"]])).logits[0].double()
            said = logits[torch.tensor(example.predicted)].log_softmax(-1)
            alone = -said.gather(1, torch.tensor(example.targets)[:, None]).sum()
            assert loss == pytest.approx(alone.item(), rel=1e-6)


def test_texts_that_were_not_told_apart_would_be_seen(monkeypatch):
    """The fault itself, put in: positions that run on from one text into the next."""
    model, plain, shorter = pair("llama", "text-generation")
    examples = examples_of(plain, "text-generation")
    batch = plain.collate(examples)
    right = plain.losses(plain.rows(plain.forward(model, batch), batch), batch)
    made = packing.packed

    def run_on(*args, **kwargs):
        shorter = made(*args, **kwargs)
        ids = shorter["inputs"]["input_ids"]
        return {**shorter, "inputs": {**shorter["inputs"], "position_ids": torch.arange(ids.shape[1]).expand_as(ids)}}

    monkeypatch.setattr(packing, "packed", run_on)
    wrong = shorter.losses(shorter.rows(shorter.forward(model, batch), batch), batch)
    assert max(abs(a - b) for a, b in zip(wrong, right, strict=True)) > 1e-2


def test_a_head_in_slices_gives_the_same_predictions():
    model, plain, shorter = pair("gpt2", "text-generation")
    batch = plain.collate(examples_of(plain, "text-generation"))
    whole = plain.rows(plain.forward(model, batch), batch).log_probs(slice(0, None))
    with lm_head.sliced_from(0):
        sliced = shorter.rows(shorter.forward(model, batch), batch)
    torch.testing.assert_close(sliced.log_probs(slice(3, 9)), whole[3:9], rtol=1e-6, atol=1e-9)


def config_of(width: int, attention: str = "sdpa") -> transformers.LlamaConfig:
    return transformers.LlamaConfig(hidden_size=width, num_attention_heads=1, attn_implementation=attention)


@pytest.mark.parametrize("in_one", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_sequences_hold_each_token_once_in_the_order_of_its_row(in_one, left):
    ids, mask = (
        torch.tensor([[5, 6, 7, 8], [1, 2, 3, 0], [9, 0, 0, 0]]),
        torch.tensor([[1] * 4, [1] * 3 + [0], [1, 0, 0, 0]]),
    )
    predicted = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    if left:
        ids, mask, predicted = (
            torch.stack([row.roll(4 - n) for row, n in zip(x, (4, 3, 1), strict=True)]) for x in (ids, mask, predicted)
        )
    shorter = packing.packed(
        {"input_ids": ids, "attention_mask": mask}, predicted, config_of(1, "flex_attention" if in_one else "sdpa")
    )
    inputs = shorter["inputs"]
    rows = {True: [[5, 6, 7, 8, 1, 2, 3, 9]], False: [[5, 6, 7, 8], [1, 2, 3, 9]]}
    places = {True: [[0, 1, 2, 3, 0, 1, 2, 0]], False: [[0, 1, 2, 3], [0, 1, 2, 0]]}
    assert inputs["input_ids"].tolist() == rows[in_one] and inputs["position_ids"].tolist() == places[in_one]
    assert inputs["input_ids"][shorter["predicted"]][shorter["order"]].tolist() == [6, 7, 1, 2, 9]


def test_a_row_that_lies_behind_a_shorter_one_keeps_its_place():
    """The longest texts are laid first, so that the predictions come in another order than the rows."""
    ids, mask = torch.tensor([[1, 0, 0], [2, 3, 4]]), torch.tensor([[1, 0, 0], [1, 1, 1]])
    shorter = packing.packed({"input_ids": ids, "attention_mask": mask}, mask.bool(), config_of(1))
    assert shorter["inputs"]["input_ids"].tolist() == [[2, 3, 4], [1, 0, 0]]
    assert shorter["inputs"]["input_ids"][shorter["predicted"]][shorter["order"]].tolist() == [1, 2, 3, 4]


def test_bins_hold_every_text_once_and_no_more_than_their_room():
    lengths = [7, 3, 3, 9, 1, 1, 2, 5, 9, 4]
    filled = packing.bins(lengths, 9)
    assert sorted(i for one in filled for i in one) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in one) <= 9 for one in filled)
    assert len(filled) == 5


def test_sequences_are_as_long_as_saves_more_padding_than_attention_costs():
    """Of texts of which no two fit into the longest, narrow models gain nothing and wide ones most of the padding."""
    lengths = [10, 6, 6, 6, 6, 6, 6, 6]
    assert packing.slots(lengths, config_of(1)) == 80
    assert packing.layout(lengths, config_of(1))[1] == 10
    assert packing.slots(lengths, config_of(512)) == 60
    assert packing.slots(lengths, config_of(1, "flex_attention")) == sum(lengths)


@pytest.mark.parametrize(
    ("architecture", "reason"), [("opt", "otherwise than alone"), ("bloom", "otherwise than alone")]
)
def test_a_model_that_mixes_packed_texts_is_found_by_trial(architecture, reason, tmp_path, monkeypatch):
    monkeypatch.setitem(writers.SIZES, "bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 2})
    given = writers.spec(tmp_path, "text-generation", architecture, "fine-tuning")
    given["training"]["packing"] = True
    with pytest.raises(UserError, match=reason) as refused:
        kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert refused.value.problems[0].field == "training.packing"


def test_models_that_keep_a_state_and_those_that_read_no_tokens_are_refused_by_check(tmp_path, monkeypatch):
    monkeypatch.setitem(writers.SIZES, "mamba", {"hidden_size": 16, "num_hidden_layers": 2})
    for architecture, task, reason in (
        ("mamba", "text-generation", "keeps a state"),
        ("t5", "summarization", "each token by those before it"),
    ):
        folder = tmp_path / architecture
        folder.mkdir()
        given = writers.spec(folder, task, architecture, "fine-tuning")
        given["training"]["packing"] = True
        with pytest.raises(UserError, match=reason):
            prepare(recipe.from_dict(given, folder))


def test_a_reference_that_cannot_be_packed_reads_its_texts_one_by_one():
    _, plain, shorter = pair("llama", "text-generation")
    teacher = pair("opt", "text-generation")[0]
    batch = plain.collate(examples_of(plain, "text-generation"))
    rows = [t.rows(t.forward(teacher, batch), batch).log_probs(slice(0, None)) for t in (plain, shorter)]
    torch.testing.assert_close(*rows, rtol=0, atol=0)


def test_a_packed_run_learns_what_an_unpacked_one_does_and_goes_on_to_the_bit(tmp_path, monkeypatch):
    given = writers.spec(tmp_path, "text-generation", "llama", "distillation")
    given["training"] |= {"save_steps": 1, "logging_steps": 1}

    def train(output: str, *, packing: bool, resume: bool = False):
        spec = {**given, "output": output, "training": {**given["training"], "packing": packing}}
        return kt.train(recipe.from_dict(spec, tmp_path), display=QUIET, resume=resume)

    plain, shorter = train("plain", packing=False), train("packed", packing=True)
    losses = [[line.get("loss") for line in lines(run.folder / "log.jsonl")] for run in (plain, shorter)]
    for a, b in zip(*losses, strict=True):
        assert a == b or a == pytest.approx(b, rel=1e-4)
    padding = [run.result["training"]["padding_share"] for run in (plain, shorter)]
    assert padding[1] < padding[0]
    assert shorter.result["training"]["examples"] == plain.result["training"]["examples"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 3)
        train("killed", packing=True)
    assert same(shorter.folder, train("killed", packing=True, resume=True).folder)


@pytest.mark.parametrize("lora", [None, {"rank": 2, "base": "bf16"}])
def test_gradient_checkpointing_changes_no_weight_and_no_loss(tmp_path, lora):
    """What is computed again in the backward pass is what was computed, adapters and packed texts with it."""
    given = writers.spec(tmp_path, "text-generation", "llama", "cross-domain")
    given["training"] |= {"packing": True, "lora": lora}

    def train(output: str, **training):
        spec = {**given, "output": output, "training": {**given["training"], **training}}
        return kt.train(recipe.from_dict(spec, tmp_path), display=QUIET)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # transformers renames the field
        plain, again = train("plain"), train("again", gradient_checkpointing=True)
    assert same(plain.folder, again.folder)
    assert plain.result["metrics"]["test"] == again.result["metrics"]["test"]
