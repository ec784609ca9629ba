"""Whether 4 rows are 2 × 2 accumulated rows, for any model and task: what the exactness tests of all families share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from keeltune.batching import Plan
from keeltune.matching.matching import Matching, Term, asking
from keeltune.objective import Objective
from keeltune.references import Model
from keeltune.tasks.task import Example, Task
from keeltune.trainer import KeelTrainer, training_arguments

RATE = 0.1


class Noted(TrainerCallback):
    """The gradients of each step, flat and in float64, as the optimizer meets them."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        used = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
        self.steps.append(torch.cat(used))


def trainer_of(
    model: Any, task: Task, examples: Sequence[Example], out: Path, *, batch: int, accumulation: int = 1,
    world: int = 1, objective: Objective | None = None, terms: Mapping[Term, float] | None = None,
) -> KeelTrainer:  # fmt: skip
    """A trainer of two epochs with SGD on a copy of `model` without dropout; the reference is the model, moved away.

    `terms` are matched as well.
    """
    student, teacher = copy.deepcopy(model), copy.deepcopy(model)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # masks differ with the batch; everything else must not
        for name in ("dropout", "attention_dropout", "activation_dropout", "layerdrop", "drop_path_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    reference = Model(teacher, task.rows, forward=task.forward) if objective else None
    matching = None
    if terms:
        probe = asking(terms, task.collate(examples[:2]))
        with torch.no_grad():
            matching = Matching(terms, task.forward(student.eval(), probe), task.forward(teacher.eval(), probe), probe)
    marked = [replace(example, anchored=reference is not None) for example in examples]
    plan = Plan(marked, [], batch_size=batch, cuts=accumulation * world, seed=3, collate=task.collate)
    arguments = training_arguments(
        out, batch_size=batch, accumulation=accumulation, epochs=2, max_steps=None, every=None,
        learning_rate=RATE, seed=0,
        passed={"optim": "sgd", "weight_decay": 0.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
                "warmup_steps": 0, "save_strategy": "no", "use_cpu": True},
    )  # fmt: skip
    return KeelTrainer(
        student, arguments, plan, task=task, objective=objective or Objective(), reference=reference, matching=matching
    )


def gradients(trainer: KeelTrainer) -> list[torch.Tensor]:
    noted = Noted()
    trainer.add_callback(noted)
    trainer.train()
    return noted.steps


def difference(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """The largest relative error of a step's gradient; later steps start from weights that earlier ones made."""
    assert len(a) == len(b) > 0
    return max(float((x - y).norm() / x.norm()) for x, y in zip(a, b, strict=True))


def error_of_accumulation(
    model: Any, task: Task, examples: Sequence[Example], out: Path, objective: Objective | None, **more: Any
) -> float:
    """How far the gradients of 2 × 2 accumulated examples are from those of 4; eight examples or so make two steps."""
    whole = gradients(trainer_of(model, task, examples, out / "whole", batch=4, objective=objective, **more))
    halves = trainer_of(model, task, examples, out / "cut", batch=2, accumulation=2, objective=objective, **more)
    cut = gradients(halves)
    return difference(whole, cut)
