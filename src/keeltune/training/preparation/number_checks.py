"""What a recipe cannot ask of predictions that are numbers."""

from __future__ import annotations

from collections.abc import Iterator

from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task
from keeltune.utils.errors import Problem


def number_problems(recipe: Recipe, task: Task) -> Iterator[Problem]:
    """Of a Gaussian there are no choices: none is kept, weighed or tempered, and only KL has a closed form."""
    if task.choices != "numbers":
        return
    objective, reference = recipe.objective, recipe.reference_spec()
    if objective.divergence_name not in ("reverse-kl", "forward-kl"):
        expected = "reverse-kl (of Gaussians of one variance forward-kl is the same): others have no closed form"
        yield recipe.problem("objective.divergence", expected=expected, fix="leave it out")
    if objective.temperature != 1:
        expected = "1: of a Gaussian a temperature does what objective.weight does"
        yield recipe.problem("objective.temperature", expected=expected, fix="leave it out, and change the weight")
    if recipe.data.class_weights is not None:
        expected = "no class_weights: numbers have no classes"
        yield recipe.problem("data.class_weights", expected=expected, fix="leave it out")
    if reference is not None and reference.temperature is not None:
        expected = "no temperature: it calibrates probabilities of choices, and numbers have none"
        yield recipe.problem("reference.temperature", expected=expected, fix="leave it out")
    if reference is not None and reference.form in ("top-k", "hidden"):
        expected = "full: the mean of each number is all that there is to keep"
        yield recipe.problem("reference.form", expected=expected, fix="leave it out")
