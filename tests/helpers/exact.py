"""Whether 4 rows are 2 × 2 accumulated rows, for any model, task and reference."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from keeltune.models import vocabulary
from keeltune.objective.references.model import Model
from keeltune.recipe.training_fields import Training
from keeltune.training.arguments import training_arguments
from keeltune.training.batch_plan import Plan
from keeltune.training.job import Job
from keeltune.training.regularization import regularizers_of
from keeltune.training.step_loss import StepLoss
from keeltune.training.trainer import KeelTrainer

RATE = 0.1
EXAMPLES = 8
RANDOM = re.compile("drop|jitter|^mask_(time|feature)_prob$")
"""Rates of what a model draws at random while it trains."""


class Noted(TrainerCallback):
    """The gradients of each step, flat and in float64, as the optimizer meets them."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]  # an expert that no token chose has no gradient
        self.steps.append(
            torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained]).double()
        )


class FixedMasks:
    """What stands for dropout: each forward pass of a micro-batch has its own mask, the same for every row."""

    def __init__(self, model: Any, passes: int):
        self.passes, self.number = passes, -1
        model.register_forward_pre_hook(self.begin)
        for table in vocabulary.token_tables(model):
            table.register_forward_hook(self.drop)

    def begin(self, module: Any, arguments: Any) -> None:
        self.number += torch.is_grad_enabled()

    def drop(self, module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.number % self.passes)
        return output * (1 + 0.5 * torch.randn(output.shape[-1], generator=generator, dtype=output.dtype))


def doubled(value: Any, dtype: torch.dtype = torch.float64) -> Any:
    """A batch whose floating-point numbers are float64."""
    if isinstance(value, dict):
        return {name: doubled(inner, dtype) for name, inner in value.items()}
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def still(model: Any, dtype: torch.dtype = torch.float64) -> Any:
    """A copy in float64 (small random models magnify float32's rounding tenfold from a layer to the next) that drops
    nothing out: masks differ with the batch; everything else must not."""
    for module in model.modules():  # a recurrent one keeps its last state, graph and all, which cannot be copied
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                setattr(module, name, value.detach())
    model = copy.deepcopy(model).to(dtype)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for holder in (module, getattr(module, "config", None)):
            for name, value in list(vars(holder).items() if holder is not None else ()):
                if isinstance(value, float) and RANDOM.search(name):
                    setattr(holder, name, 0.0)
            if hasattr(holder, "_experts_implementation"):
                holder._experts_implementation = "eager"  # the grouped product of matrices has no float64
    return model


def gradients(
    job: Job, out: Path, *, batch: int, accumulation: int, dtype: torch.dtype = torch.float64, epochs: int = 2
) -> list[torch.Tensor]:
    """The gradients of a few epochs of SGD over the job's first examples, a step in each tensor."""
    task, reference = job.material.task, job.reference
    if isinstance(reference, Model):
        reference = Model(
            still(reference.model, dtype), reference.to_rows, entry=reference.entry, forward=reference.forward
        )
    plan = Plan(
        job.plan.examples[:EXAMPLES], [], batch_size=batch, micro_batches=accumulation, seed=3,
        collate=lambda examples: doubled(task.collate(examples), dtype),
    )  # fmt: skip
    passed = {"optim": "sgd", "weight_decay": 0.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
              "warmup_steps": 0, "save_strategy": "no", "use_cpu": True}  # fmt: skip
    training = Training(gradient_accumulation_steps=accumulation, epochs=epochs, learning_rate=RATE, **passed)
    arguments = training_arguments(out, training, batch_size=batch, every=None, seed=0)
    student = still(job.model, dtype)
    matching = getattr(student, "matching", None)
    regularizers = regularizers_of(job.material.recipe)
    loss = StepLoss(task, job.objective, reference, matching, regularizers=regularizers)
    trainer = KeelTrainer(student, arguments, plan, loss)
    if masks := getattr(job, "masks", 0):
        FixedMasks(student, masks)
    noted = Noted()
    trainer.add_callback(noted)
    trainer.train()
    return noted.steps


def error_of_accumulation(job: Job, out: Path, dtype: torch.dtype = torch.float64, epochs: int = 2) -> float:
    """The largest relative error of a step's gradient where 4 rows are cut into 2 × 2; later steps start from weights
    that earlier ones made."""
    whole = gradients(job, out / "whole", batch=4, accumulation=1, dtype=dtype, epochs=epochs)
    cut = gradients(job, out / "cut", batch=2, accumulation=2, dtype=dtype, epochs=epochs)
    assert len(whole) == len(cut) > 1
    pairs = list(zip(whole, cut, strict=True))
    if dtype == torch.float32:  # later steps start from weights that its rounding made, and experts are chosen by them
        pairs = pairs[:1]
    return max(float((x - y).norm() / x.norm()) for x, y in pairs)
