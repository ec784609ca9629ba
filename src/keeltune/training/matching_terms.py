"""The matching terms that a recipe names, found on the shelf or outside the package."""

from __future__ import annotations

from collections.abc import Iterator

from keeltune.objective.matching.matching import Term
from keeltune.recipe.fields import Recipe
from keeltune.utils import registry
from keeltune.utils.errors import Problem, UserError, shown


def matching_terms(recipe: Recipe) -> dict[Term, float]:
    """Each term with its weight. UserError where one from outside cannot be had."""
    if problems := matching_problems(recipe):
        raise UserError(problems)
    return {registry.find("matching", name)(): weight for name, weight in recipe.objective.matching.items()}


def matching_problems(recipe: Recipe) -> list[Problem]:
    """Names for which there is no term; those of the shelf are checked with the recipe."""
    return list(_problems(recipe))


def _problems(recipe: Recipe) -> Iterator[Problem]:
    for name in recipe.objective.matching:
        try:
            output = registry.find("matching", name).output
        except LookupError as error:
            fix = "correct the name, or start the command where the module can be imported"
            yield recipe.problem(f"objective.matching.{name}", found=shown(name), expected=str(error), fix=fix)
            continue
        if output == "attentions" and recipe.training.attention not in ("auto", "eager"):
            expected = f"eager: objective.matching.{name} reads where heads look, which no other attention says"
            yield recipe.problem("training.attention", expected=expected, fix="write eager, or leave it out")
