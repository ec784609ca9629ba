"""A training step waits for its device once: for whether its losses and its gradient are numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from keeltune import recipe
from keeltune.models import known_padding
from keeltune.objective import host_counts
from keeltune.objective.formula import Objective
from keeltune.objective.marked import Marked
from keeltune.objective.predictions import Dense
from keeltune.training import build, streams
from keeltune.training.arguments import training_arguments
from keeltune.training.batch_plan import Plan
from keeltune.training.preparation import prepare
from keeltune.training.step_loss import step_loss
from keeltune.training.trainer import KeelTrainer
from tests.helpers import wide
from tests.helpers.device_reads import DeviceReads
from tests.helpers.families import spec

ONCE = {"finite_check.py:refuse_broken": 1}

ON_THE_HOST = {"trainer.py:get_batch_samples", "data_loader.py:__iter__"}
"""Of one process: the step's counts, which several would add up, and the seed of a loader at an epoch's start."""

OF_AN_EPOCH = {"callbacks.py:read"}
"""The sums that an epoch's begin leaves behind."""

CASES = {
    "classification": ("text-classification", "bert", "fine-tuning"),
    "distillation": ("text-classification", "bert", "distillation"),
    "cross-domain": ("text-classification", "roberta", "cross-domain"),
    "tags": ("token-classification", "bert", "distillation"),
    "questions": ("question-answering", "bert", "distillation"),
    "encoder-decoder": ("summarization", "marian", "distillation"),
    "decoder": ("text-generation", "gpt2", "distillation"),
}

FEW = ("distillation", "encoder-decoder", "decoder")


class Steps(TrainerCallback):
    """What each step read."""

    def __init__(self, reads: DeviceReads):
        self.reads = reads
        self.steps: list[dict[str, int]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(dict(self.reads.found))
        self.reads.found.clear()


def steps_of(folder: Path, values: dict[str, Any], patch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """The reads of each step but the first, in which models are measured, of a training that logs at none of them."""
    job = build.build(prepare.prepare(recipe.from_dict({**values, "output": "out"}, folder)))
    arguments = training_arguments(folder / "steps", job.material.recipe.training, batch_size=2, every=None, seed=0)
    arguments.logging_steps, arguments.logging_first_step, arguments.save_strategy = 100, False, "no"
    reads = DeviceReads()
    noted = Steps(reads)
    trainer = KeelTrainer(job.model, arguments, job.plan, step_loss(job), callbacks=[noted])
    collate, create = Plan.__getitem__, KeelTrainer.create_optimizer

    def made(self: Plan, item: int) -> dict[str, Any]:
        with reads.host():
            return collate(self, item)

    def with_steps_of_the_host(self: KeelTrainer, model: Any = None) -> Any:
        optimizer = create(self, model)
        step = optimizer.step

        def stepped(*args: Any, **kwargs: Any) -> Any:
            with reads.host():  # AdamW's own number of the step, which torch keeps on the host
                return step(*args, **kwargs)

        optimizer.step = stepped
        return optimizer

    patch.setattr(Plan, "__getitem__", made)
    patch.setattr(KeelTrainer, "create_optimizer", with_steps_of_the_host)
    with reads:
        trainer.train()
    assert len(noted.steps) == 6
    return noted.steps[1:]


@pytest.mark.parametrize("case", wide.all_but(CASES, FEW))
def test_a_step_waits_for_its_device_once(tmp_path, monkeypatch, case):
    for found in steps_of(tmp_path, spec(tmp_path, *CASES[case]), monkeypatch):
        device = {place: count for place, count in found.items() if place not in ON_THE_HOST | OF_AN_EPOCH}
        if case == "encoder-decoder":  # transformers looks at the mask that the decoder makes of ones, in each pass
            masks = [place for place in device if place.startswith("masking_utils.py")]
            assert sum(device.pop(place) for place in masks) <= 2 * 2 * 2
        assert device == ONCE
        assert found.keys() >= OF_AN_EPOCH or "data_loader.py:__iter__" not in found


def test_a_batch_that_nobody_counted_is_read_again(tmp_path, monkeypatch):
    """The trap, put in: without the host's counts each micro-batch is asked for them, and the counter sees it."""
    monkeypatch.setattr(streams, "with_counts", lambda batch, count: batch)
    found = steps_of(tmp_path, spec(tmp_path, *CASES["tags"]), monkeypatch)[0]
    assert found["batches.py:labelled_and_anchored"] == 4
    assert found["marked.py:of"] >= 4
    assert any(place.startswith("masking_utils.py") for place in found)


def test_counts_of_the_host_are_those_of_the_tensors():
    anchored = torch.tensor([True, False, False, True, True, False])
    batch = {
        "inputs": {"input_ids": torch.ones(2, 4).long(), "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])},
        "targets": torch.tensor([3, -100, 1, 0, -100, -100]), "weights": torch.ones(6), "anchored": anchored,
        "counts": torch.tensor([4, 2]), "predicted": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool(),
    }  # fmt: skip
    counted = host_counts.with_counts(batch, lambda b: (3.0, 3.0))
    assert host_counts.terms(counted, lambda b: (0.0, 0.0)) == (3.0, 3.0)
    assert host_counts.sizes(counted) == [4, 2] and host_counts.predicted(counted) == 6
    assert host_counts.padded(counted) == {(2, 4): True}
    values = torch.randn(6, 3)
    for ours, mask in (
        (host_counts.anchored(counted), anchored),
        (host_counts.labelled(counted), batch["targets"] >= 0),
    ):
        assert len(ours) == int(mask.sum())
        for part in (slice(0, 6), slice(0, 2), slice(2, 5), slice(5, 6), slice(1, 1)):
            assert torch.equal(ours.pick(values[part], part), values[part][mask[part]])
    seen = torch.randn(2, 7, 3)  # three positions before the text
    assert torch.equal(host_counts.at_predictions(seen, counted), host_counts.at_predictions(seen, batch))


def test_a_mask_and_what_is_marked_give_the_same_divergence_and_gradient_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(9, 5, generator=generator)
    mask = torch.tensor([1, 1, 0, 1, 0, 0, 1, 1, 1]).bool()
    for rows, size in ((reference, 4), (reference[mask], 4), (reference, None)):
        made = []
        for anchored in (mask, Marked.of(mask)):
            logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
            value = Objective(size=size).total(Dense(logits), Dense(rows), anchored)
            made.append((value, *torch.autograd.grad(value, logits)))
        assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_known_padding_changes_no_number(tiny):
    """Masks that mask something, and masks that mask nothing, as transformers finds them out itself."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tiny("gpt2"), attn_implementation="sdpa").eval()
    model.config.pad_token_id = 0
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
    for rows in (ids, ids[:1]):
        inputs = {"input_ids": rows, "attention_mask": (rows != 0).long()}
        plain = model(**inputs).logits
        with known_padding.known({tuple(rows.shape): bool((rows == 0).any())}), DeviceReads() as reads:
            told = model(**inputs).logits
        assert torch.equal(plain, told)
        assert not any(place.startswith("masking_utils.py") for place in reads.found)


def test_a_graph_is_followed_after_a_training_has_told_of_padding(tiny):
    """A shape that is traced is no number, and is not looked up."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tiny("bert"), attn_implementation="sdpa").eval()
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
    with known_padding.known({tuple(ids.shape): True}):
        model(input_ids=ids, attention_mask=(ids != 0).long())
    rows, tokens = torch.export.Dim("rows", min=1, max=8), torch.export.Dim("tokens", min=2, max=40)
    graph = torch.export.export(
        model, (ids,), {"attention_mask": (ids != 0).long()},
        dynamic_shapes={"input_ids": {0: rows, 1: tokens}, "attention_mask": {0: rows, 1: tokens}}, strict=False,
    )  # fmt: skip
    longer = torch.tensor([[2, 5, 6, 7, 8, 3]] * 3)
    told = graph.module()(longer, attention_mask=torch.ones_like(longer)).logits
    assert torch.allclose(told, model(input_ids=longer).logits, atol=1e-5)
