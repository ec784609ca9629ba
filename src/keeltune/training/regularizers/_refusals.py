"""Reasons that several regularisers share for having no meaning in a run."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from keeltune.models import loading, surgery
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import StudentFrom
from keeltune.tasks.task import Task
from keeltune.training.regularizers.regularizer import Refusal


def without_labelled_predictions(name: str, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
    """Of a term of labelled predictions, where no row has a label or the loss is no sum over predictions."""
    if recipe.data.train is None and recipe.data.unlabeled_as != "labels":
        expected = f"rows with labels: {name} is a term of labelled predictions, and there are none"
        yield Refusal(expected, "add data.train, or leave it out")
    if task is not None and task.choices == "numbers":
        yield Refusal(f"no {name}: it compares probabilities of choices, and numbers have none")
    nothing = torch.zeros(0)
    batch = {"targets": nothing.long(), "weights": nothing, "numbers": nothing}
    if task is not None and task.sliced_cross_entropy(batch) is None:
        reason = "the loss of a text is that of all its alignments (CTC), no sum over predictions"
        yield Refusal(f"no {name}: {reason}")


def without_token_embeddings(name: str, task: Task | None) -> Iterator[Refusal]:
    """Where pictures or sound are read."""
    if task is not None and task.reads != "text":
        yield Refusal(f"no {name}: what is read is {task.reads}, no tokens that have embeddings")


def depth(recipe: Recipe, task: Task) -> int:
    """The layers of the student's last stack; 0 where its layers are in no list (ALBERT). No weights."""
    config, auto_model = task.settings.config, task.settings.auto_model
    location = recipe.where("model")
    if isinstance(recipe.model, StudentFrom):
        _, config = surgery.student_config(config, auto_model, recipe.model.chosen_layers, location, "model.layers")
    lengths = surgery.stacks(loading.skeleton(config, auto_model, location, "model")).values()
    return list(lengths)[-1] if lengths else 0


def without_stacks(task: Task) -> Refusal:
    """Where there is no list of layers."""
    return Refusal(
        "layers one below the other",
        "leave it out, or take another architecture",
        f"{task.settings.config.model_type}, whose layers lie in no ModuleList of the configuration's length",
    )
