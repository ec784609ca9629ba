"""The student without its weights: what trains and how large it is, for nothing."""

from __future__ import annotations

from typing import Any

from keeltune.models import loading, surgery
from keeltune.models.lora import add_adapter
from keeltune.recipe.model_fields import StudentFrom
from keeltune.training.preparation.material import Material


def student_skeleton(material: Material) -> Any:
    """The model that trains, on the meta device: of the layers that are taken, with the recipe's adapter."""
    recipe, config = material.recipe, material.config
    if isinstance(student := recipe.model, StudentFrom):
        where = recipe.where("model.layers")
        _, config = surgery.student_config(config, material.auto_model, student.chosen_layers, where, "model.layers")
    model = loading.skeleton(config, material.auto_model)
    if getattr(model.config, "apply_spec_augment", False):
        model.config.apply_spec_augment = False  # it draws what it masks by numbers
    if recipe.training.lora is not None:
        model = add_adapter(model, recipe.training.lora, train_head=material.task.choices != "tokens")
    passed = recipe.training.passed
    if passed.get("gradient_checkpointing") or passed.get("activation_checkpointing"):
        model.gradient_checkpointing_enable()
    return model
