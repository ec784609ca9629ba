"""The student as it is before training."""

from __future__ import annotations

import torch

from keeltune.models import half_precision, initialization, loading, surgery
from keeltune.models.attention_choice import choose_attention
from keeltune.models.four_bit import take_out
from keeltune.models.holding import FLOAT32, Holding
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


def student_holding(material: Material, precision: str) -> Holding:
    """How the student's weights are held in a run of this precision, all of them."""
    lora = material.recipe.training.lora
    return Holding(frozen_dtype(material, precision), four_bit=lora is not None and lora.base == "4bit")


def start_in_float32(material: Material, precision: str) -> loading.Loaded:
    """The student before training in float32, its numbers those that the weights stand for as they are held."""
    held = student_holding(material, precision)
    start = initial_student(material, held)
    if not held.four_bit:
        start.model.float()
        return start
    plain = initial_student(material)
    take_out(plain.model, start.model)
    return plain


def initial_student(material: Material, held: Holding = FLOAT32) -> loading.Loaded:
    """The student before training, held as `held` says. Without a new head it is the same each time."""
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
                task.settings.labels,
                task.settings.multi_label,
                new=material.new_head and task.choices in ("labels", "numbers"),
                numbers=task.choices == "numbers",
            ),
            where=recipe.where("model"),
            field="model",
            reads=task.reads,
            held=held,
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
