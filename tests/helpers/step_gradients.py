"""The gradients of a classifier's optimizer steps, however they are cut."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from keeltune.data.dataset import Row
from keeltune.objective.formula import Objective
from keeltune.objective.references.model import Model
from keeltune.recipe.training_fields import Training
from keeltune.tasks.common.settings import Settings
from keeltune.training.arguments import training_arguments
from keeltune.training.batch_plan import Plan
from keeltune.training.regularizers.regularizer import Regularizer
from keeltune.training.step_loss import StepLoss
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.registry import find

LABELS = ["negative", "positive"]
TEXTS = [
    "the film is good",
    "a very long and dull plot but not bad",
    "bad",
    "it was fine and short and good in it",
    "not good",
    "i was in the film",
    "dull dull dull film of a plot",
    "the plot of the film is very very good",
]
RATE = 0.1


def rows() -> list[Row]:
    return [Row({"text": t, "label": LABELS[i % 2]}, "f", i + 1, f"k{i}") for i, t in enumerate(TEXTS)]


def build(
    folder: Path, out: Path, *, batch: int, accumulation: int, world: int, objective: Objective | None,
    regularizers: Sequence[Regularizer] = (),
):  # fmt: skip
    """The trainer over 8 rows in steps of 4; the reference is another random model of the same architecture."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # masks differ with the batch; everything else must not
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model.config.pad_token_id = tokenizer.pad_token_id
    model.eval()
    task = find("tasks", "text-classification")(tokenizer, Settings(LABELS))
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    reference = Model(teacher, task.rows) if objective else None
    examples = [e for row in rows() for e in task.encode(row)]
    examples = [type(e)(**{**vars(e), "anchored": reference is not None}) for e in examples]
    plan = Plan(examples, [], batch_size=batch, micro_batches=accumulation * world, seed=3, collate=task.collate)
    passed = {"optim": "sgd", "weight_decay": 0.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
              "warmup_steps": 0, "save_strategy": "no", **({"use_cpu": True} if world == 1 else {})}  # fmt: skip
    training = Training(gradient_accumulation_steps=accumulation, epochs=2, learning_rate=RATE, **passed)
    arguments = training_arguments(out, training, batch_size=batch, every=None, seed=0)
    loss = StepLoss(task, objective or Objective(), reference, regularizers=regularizers)
    return KeelTrainer(model, arguments, plan, loss)


class Gradients(TrainerCallback):
    """The gradient of each optimizer step, all parameters in one float64 vector."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append(torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None]))


def gradients_of(trainer: KeelTrainer) -> list[torch.Tensor]:
    noted = Gradients()
    trainer.add_callback(noted)
    trainer.train()
    assert len(noted.steps) == 4
    return noted.steps


def gradients(folder: Path, out: Path, **how) -> list[torch.Tensor]:
    return gradients_of(build(folder, out, **how))


def difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """The largest relative error of a step's gradient; later steps start from weights that earlier ones made."""
    return max(float((x - y).norm() / x.norm()) for x, y in zip(a, b, strict=True))


def objective_of(name: str) -> Objective | None:
    return None if name == "none" else Objective(name, weight=0.7)
