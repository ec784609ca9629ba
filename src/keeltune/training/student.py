"""The student as it is before training."""

from __future__ import annotations

import torch

from keeltune.models import half_precision, initialization, loading, surgery
from keeltune.models.attention_choice import choose_attention
from keeltune.models.holding import Holding
from keeltune.recipe.model_fields import NewModel, StudentFrom
from keeltune.training.preparation.material import Material
from keeltune.training.regularization import regularizers_of
from keeltune.utils.device import DTYPES


def frozen_dtype(material: Material, precision: str) -> torch.dtype:
    """How the student's weights are held in a run of this precision: in half where only adapters train, if at all."""
    recipe = material.recipe
    lora = recipe.training.lora
    if lora is None or isinstance(recipe.model, NewModel):
        return torch.float32
    unfit = lora.base == "auto" and material.config.model_type in half_precision.WITHOUT
    return torch.float32 if unfit else DTYPES[lora.base_in(precision)]


def initial_student(material: Material, dtype: torch.dtype = torch.float32) -> loading.Loaded:
    """The student before training, its weights held in `dtype`. Without a new head it is the same each time."""
    recipe, task = material.recipe, material.task
    if isinstance(recipe.model, NewModel):
        student = initialization.load(
            recipe.model, recipe, material.config, material.processor, material.auto_model, task.settings.labels
        )
    else:
        student = loading.load(
            material.source,
            material.auto_model,
            loading.Head(
                task.settings.labels, task.settings.multi_label, material.new_head and task.choices == "labels"
            ),
            where=recipe.where("model"),
            field="model",
            reads=task.reads,
            held=Holding(dtype),
        )
    if isinstance(recipe.model, StudentFrom):
        student = surgery.cut_layers(
            student, material.auto_model, recipe.model.chosen_layers, recipe.where("model"), "model.layers"
        )
    for regularizer in regularizers_of(recipe):
        student = regularizer.on_load(student, material.auto_model, recipe.seed)
    if recipe.training.attention != "auto":
        choose_attention(student.model, recipe.training.attention)
    return student
