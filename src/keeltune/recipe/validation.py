"""What the sections of a recipe allow together.

`cross_faults` finds what no field shows alone. A check never stops at its first fault.
"""

from __future__ import annotations

from collections.abc import Iterator

from keeltune.recipe.data_validation import data_faults
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import NewModel
from keeltune.recipe.objective_validation import divergence_faults, fine_tuning_faults, matching_faults
from keeltune.recipe.reference_validation import anchor_faults
from keeltune.recipe.secret_validation import secret_faults
from keeltune.recipe.sharding_validation import sharding_faults
from keeltune.recipe.source_validation import source_faults
from keeltune.recipe.task_validation import task_faults
from keeltune.recipe.training_validation import training_faults
from keeltune.utils.errors import Problem


def cross_faults(recipe: Recipe, replaced: set[str]) -> Iterator[Problem]:
    """The faults that no field shows alone. `replaced`: fields that stand-ins hold, whose checks would mislead."""
    distils = "method" in replaced or recipe.method == "distillation"
    if recipe.data.train is None and not (distils and recipe.data.unlabeled is not None):
        fix = "add data.train: FILE; distillation can do with data.unlabeled: FILE alone"
        yield recipe.problem("data.train", expected="the labelled rows to learn from", fix=fix)
    if isinstance(recipe.model, NewModel) and recipe.model.tokenizer is None:
        expected = "a tokenizer: its folder or hub id, or {train: bpe, size: 8000}"
        yield recipe.problem("model.tokenizer", expected=expected, fix="add model.tokenizer")
    yield from secret_faults(recipe)
    yield from data_faults(recipe)
    yield from divergence_faults(recipe)
    yield from matching_faults(recipe)
    yield from training_faults(recipe)
    yield from sharding_faults(recipe)
    yield from source_faults(recipe, "method" in replaced)
    if "task" not in replaced:
        yield from task_faults(recipe)
    if "method" not in replaced:
        yield from fine_tuning_faults(recipe) if recipe.method == "fine-tuning" else anchor_faults(recipe)
