"""The student as it is before training."""

from __future__ import annotations

from keeltune.models import initialization, loading, surgery
from keeltune.recipe.model_fields import NewModel, StudentFrom
from keeltune.training.preparation.material import Material
from keeltune.training.regularization import regularizers_of


def initial_student(material: Material) -> loading.Loaded:
    """The student before training. Without a new head it is the same each time."""
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
        )
    if isinstance(recipe.model, StudentFrom):
        student = surgery.cut_layers(
            student, material.auto_model, recipe.model.chosen_layers, recipe.where("model"), "model.layers"
        )
    for regularizer in regularizers_of(recipe):
        student = regularizer.on_load(student, material.auto_model, recipe.seed)
    return student
