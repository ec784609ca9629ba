"""Gradient checkpointing is on where a recipe says so, and changes neither loss nor gradient, nor the reference."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from keeltune import recipe
from keeltune.objective.references.model import Model
from keeltune.training import build
from keeltune.training.arguments import training_arguments
from keeltune.training.preparation.prepare import prepare
from keeltune.training.step_loss import step_loss
from keeltune.training.trainer import KeelTrainer
from tests.helpers import families
from tests.helpers.exact import Noted
from tests.helpers.families import by_turns

STEPS = 2
KINDS = [
    ("text-classification", "bert", "query"),
    ("summarization", "t5", "q"),
    ("text-generation", "llama", "q_proj"),
    ("speech-recognition", "whisper", "q_proj"),  # its input is no token
]


class Calls:
    """How often the layers' attention is called: by a model that trains, and by one that only answers."""

    def __init__(self, model: Any, name: str):
        self.training, self.answering = Counter[str](), Counter[str]()
        for path, module in model.named_modules():
            if path.rpartition(".")[2] == name:
                module.register_forward_hook(lambda module, *_, path=path: self.count(module, path))

    def count(self, module: Any, path: str) -> None:
        (self.training if module.training else self.answering)[path] += 1


def trained(folder: Path, spec: dict[str, Any], attention: str, **training: Any) -> dict[str, Any]:
    """The losses and gradients of two steps of SGD, the calls of student and reference, and the reference's weights."""
    changed = {"lr_scheduler_type": "constant", "optim": "sgd", "max_steps": STEPS, "use_cpu": True, **training}
    values = {**spec, "output": "out", "training": {**spec["training"], **changed}}
    job = build.build(prepare(recipe.from_dict(values, folder)))
    others = job.reference.model if isinstance(job.reference, Model) else None
    before = copy.deepcopy(others.state_dict()) if others else None
    calls, of_reference = Calls(job.model, attention), Calls(others, attention) if others else None
    arguments = training_arguments(folder / "out", job.material.recipe.training, batch_size=2, every=None, seed=0)
    trainer = KeelTrainer(job.model, arguments, job.plan, step_loss(job))
    noted = Noted()
    trainer.add_callback(noted)
    trainer.train()
    if others:
        assert not any(getattr(module, "gradient_checkpointing", False) for module in others.modules())
        assert not any(weight.requires_grad or weight.grad is not None for weight in others.parameters())
        assert all(torch.equal(before[name], weight) for name, weight in others.state_dict().items())
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {"losses": losses, "gradients": noted.steps, "calls": calls, "of_reference": of_reference, "job": job}


@pytest.mark.parametrize(("task", "architecture", "attention", "method"), by_turns(KINDS, ("cross-domain",)))
@pytest.mark.parametrize("lora", [None, {"rank": 2, "dropout": 0.1}], ids=["all weights", "lora"])
def test_layers_run_twice_and_loss_and_gradient_stay(tmp_path, task, architecture, attention, method, lora):
    spec = families.spec(tmp_path, task, architecture, method)
    spec["training"] |= {"lora": lora, "logging_steps": 1}
    plain = trained(tmp_path, spec, attention)
    assert plain["calls"].training
    again = trained(tmp_path, spec, attention, gradient_checkpointing=True)
    assert again["losses"] == pytest.approx(plain["losses"], rel=1e-6)
    assert len(again["gradients"]) == STEPS and all(gradient.any() for gradient in again["gradients"])
    for mine, other in zip(again["gradients"], plain["gradients"], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
    assert again["calls"].training == {name: 2 * calls for name, calls in plain["calls"].training.items()}
    assert again["calls"].answering == plain["calls"].answering  # by a reference that is the student itself
    if lora is None:
        assert again["of_reference"].answering == plain["of_reference"].answering != {}
