"""Regularisers that have no meaning for a task or a model."""

from __future__ import annotations

import torch

from keeltune.models import loading, surgery
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import StudentFrom
from keeltune.tasks.task import Task
from keeltune.utils.errors import Problem


def regularizer_problems(recipe: Recipe, task: Task) -> list[Problem]:
    """Regularisers that have no meaning for this task or this model. No weights."""
    asked, config = recipe.training.regularizers, task.settings.config
    nothing = torch.zeros(0)
    alignments = task.sliced_cross_entropy({"targets": nothing.long(), "weights": nothing}) is None
    whole = "the loss of a text is that of all its alignments (CTC), no sum over predictions"
    media = f"what is read is {task.reads}, no tokens that have embeddings"
    same = "two passes differ by dropout alone, and this model has none (all its rates are 0)"
    lora = recipe.training.lora
    reasons = {
        "label_smoothing": {whole: alignments},
        "r_drop": {whole: alignments, same: not surgery.drops_out(config) and not (lora and lora.dropout)},
        "fgm": {media: task.reads != "text"},
        "freeze_embeddings": {media: task.reads != "text"},
    }
    problems = [
        recipe.problem(f"training.regularizers.{name}", expected=f"no {name}: {reason}", fix="leave it out")
        for name, why in reasons.items()
        for reason, holds in why.items()
        if holds and getattr(asked, name)
    ]
    if asked.layer_decay or asked.new_top_layers:
        place, auto_model = recipe.where("model"), task.settings.auto_model
        if isinstance(recipe.model, StudentFrom):
            _, config = surgery.student_config(config, auto_model, recipe.model.layers, place, "model.layers")
        found = surgery.stacks(loading.skeleton(config, auto_model, place, "model"))
        for name in (name for name in ("layer_decay", "new_top_layers") if getattr(asked, name) and not found):
            said = f"{config.model_type}, whose layers lie in no ModuleList of the configuration's length"
            fix = "leave it out, or take another architecture"
            field = f"training.regularizers.{name}"
            problems.append(recipe.problem(field, found=said, expected="layers one below the other", fix=fix))
        depth = list(found.values())[-1] if found else 0
        if found and asked.new_top_layers and asked.new_top_layers > depth:
            field, told = "training.regularizers.new_top_layers", f"at most {depth}, the layers of the last stack"
            problems.append(recipe.problem(field, expected=told, fix=f"write {depth} at most"))
    return problems
