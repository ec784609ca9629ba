"""How the models of a reference are held: in which precision, and on which weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from keeltune.models.adapters import adapters_on
from keeltune.models.holding import Holding
from keeltune.training.preparation.material import Material
from keeltune.training.student import frozen_dtype, student_holding
from keeltune.utils.device import DTYPES


def holding_of(material: Material, source: str, precision: str) -> Holding:
    """How a model of the reference is held in a run of this precision: as `reference.held` says.

    An adapter on the student's own frozen base lies unmerged on it, in its precision unless another one is asked for:
    the weights below it are held once.
    """
    spec = material.recipe.reference_spec()
    on_base = _lies_on_students_base(material, source)
    asked = "auto" if spec is None else spec.held
    if on_base and asked == "auto":
        return replace(student_holding(material, precision), merged=False)
    return Holding(torch.float32 if asked == "auto" else DTYPES[asked], merged=not on_base)


def start_dtype(material: Material, precision: str) -> torch.dtype:
    """How the student as it was before training is held, where that is the reference."""
    spec = material.recipe.reference_spec()
    if spec is not None and spec.held != "auto":
        return DTYPES[spec.held]
    return frozen_dtype(material, precision)


def held_in(material: Material, precision: str) -> list[torch.dtype]:
    """The precisions of a reference's weights, model by model."""
    if material.reference_is_start:
        return [start_dtype(material, precision)]
    return [holding_of(material, files.source, precision).dtype for files in material.references]


def _lies_on_students_base(material: Material, source: str) -> bool:
    """Whether it is one adapter on the model that the student is, whose weights do not train."""
    recipe, chain = material.recipe, adapters_on(source)
    if recipe.training.lora is None or not isinstance(recipe.model, str) or len(chain) != 1:
        return False
    places = Path(chain[0].base), Path(material.source)
    if all(place.is_dir() for place in places):
        return places[0].samefile(places[1])
    return chain[0].base == material.source
