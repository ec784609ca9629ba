"""What a recipe may say of its rows."""

from __future__ import annotations

from collections.abc import Iterator

from keeltune.recipe.fields import Recipe
from keeltune.utils import registry
from keeltune.utils.errors import Problem, nearest, shown
from keeltune.utils.names import plain_name


def data_faults(recipe: Recipe) -> Iterator[Problem]:
    """Rows, streams and labels that are named in vain, or that are lacking."""
    data, evaluation = recipe.data, recipe.evaluation
    if isinstance(data.validation, float) and data.train is None:
        fix = "name a file of validation rows"
        yield recipe.problem(
            "data.validation", expected="a file: without data.train there is nothing to split", fix=fix
        )
    if data.validation is None:
        for field, value in (("every", evaluation.every), ("patience", evaluation.patience)):
            if isinstance(value, int):
                expected = f"{field} with validation rows: without data.validation nothing is measured while it trains"
                yield recipe.problem(
                    f"evaluation.{field}", expected=expected, fix="add data.validation: 0.1, say, or leave it out"
                )
    if "unlabeled" in data.mix.model_fields_set and (data.train is None or data.unlabeled is None):
        missing = "data.train" if data.train is None else "data.unlabeled"
        fix = f"leave it out, or add {missing}"
        yield recipe.problem("data.mix.unlabeled", expected=f"two streams to mix: {missing} is missing", fix=fix)
    if data.unlabeled_as == "labels" and data.unlabeled is None and data.augment is None:
        fix = "add data.unlabeled: FILE, or leave it out"
        yield recipe.problem("data.unlabeled_as", expected="rows that the reference can label", fix=fix)
    if "augmented" in data.mix.model_fields_set and data.augment is None:
        expected = "variants to mix in: data.augment is missing"
        yield recipe.problem("data.mix.augmented", expected=expected, fix="leave it out, or add data.augment: {}")
    if data.augment and not data.augment.word_dropout and not data.augment.crops:
        expected = "word_dropout above 0 or crops: variants would be the texts as they are"
        yield recipe.problem("data.augment", expected=expected, fix="set one of the two, or leave it out")
    if data.format is not None and ":" not in data.format:
        yield from format_faults(recipe)
    if data.labels is None:
        return
    listed = data.labels.values() if isinstance(data.labels, dict) else data.labels
    names = [plain_name(str(name)) for name in listed]
    if len(set(names)) < 2 and not data.multi_label:
        yield recipe.problem("data.labels", expected="two names at least", fix="name every label of the data")
    weighted = {} if data.class_weights in (None, "balanced") else data.class_weights
    for name in (name for name in weighted or () if plain_name(str(name)) not in names):
        expected = f"a name of data.labels: {', '.join(names)}"
        fix = f"correct the name{nearest(name, names)}"
        yield recipe.problem(f"data.class_weights.{name}", found=shown(name), expected=expected, fix=fix)


def format_faults(recipe: Recipe) -> Iterator[Problem]:
    """A format that there is none of; from outside the package it is imported, and so checked before training."""
    name = recipe.data.format
    if name is not None and (reason := registry.fault("file_formats", name)):
        expected = f"a file format: {reason}"
        yield recipe.problem("data.format", expected=expected, fix="correct the name, or leave it out")
