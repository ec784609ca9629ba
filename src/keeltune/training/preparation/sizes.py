"""How large the student is, from its configuration alone: no weight is loaded."""

from __future__ import annotations

from typing import NamedTuple

import torch

from keeltune.models import shapes, surgery
from keeltune.recipe.model_fields import StudentFrom
from keeltune.training.preparation.material import Material


class Sizes(NamedTuple):
    """Weights, weights outside the embeddings, layers and width of the student."""

    whole: int
    body: int
    depth: int
    width: int


def student_sizes(material: Material) -> Sizes:
    """The sizes of the student as the recipe cuts it."""
    config = material.config
    if isinstance(student := material.recipe.model, StudentFrom):
        where = material.recipe.where("model.layers")
        _, config = surgery.student_config(config, material.auto_model, student.chosen_layers, where, "model.layers")
    model = shapes.shape_of(config, material.auto_model)
    whole = sum(p.numel() for p in model.parameters())
    embeddings = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
    text = config.get_text_config()
    depth, body = int(getattr(text, "num_hidden_layers", 1)), whole - embeddings
    return Sizes(whole, body, depth, int(getattr(text, "hidden_size", 256)))
