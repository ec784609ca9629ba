"""What a recipe may say of its reference: a teacher, the student's old self, or a server."""

from __future__ import annotations

from collections.abc import Iterator

from keeltune.recipe.fields import Recipe
from keeltune.recipe.objective_validation import weight_faults
from keeltune.recipe.reference_fields import ReferenceSpec
from keeltune.utils.errors import Problem


def anchor_faults(recipe: Recipe) -> Iterator[Problem]:
    """The second term of distillation and cross-domain fine-tuning: its reference and its weight."""
    reference = recipe.reference_spec()
    if recipe.method == "distillation" and (reference is None or reference.model is None):
        yield recipe.problem("reference", expected="a teacher: distillation needs one", fix="add reference: TEACHER")
    if isinstance(recipe.reference, ReferenceSpec):
        yield from _reference_faults(recipe, recipe.reference)
    yield from weight_faults(recipe)


def _reference_faults(recipe: Recipe, reference: ReferenceSpec) -> Iterator[Problem]:
    models = recipe.reference_models()
    if reference.weight is not None and len(reference.weight) != len(models):
        expected = f"a weight for each of the {len(models)} models"
        fix = "they weigh the models in their average; how near the student is held is objective.weight"
        yield recipe.problem("reference.weight", expected=expected, fix=fix)
    if isinstance(reference.temperature, list) and len(reference.temperature) != len(models):
        expected = f"a temperature for each of the {len(models)} models, or one number for all"
        yield recipe.problem("reference.temperature", expected=expected, fix="change the list")
    if reference.temperature is not None and (not recipe.has_teacher or reference.origin == "adapter-off"):
        expected = "no temperature: it calibrates a teacher; the student's old self is held to as it was"
        fix = "leave it out, or choose method: distillation without from: adapter-off"
        yield recipe.problem("reference.temperature", expected=expected, fix=fix)
    if reference.origin == "adapter-off" and (recipe.training.lora is None or models != [recipe.model]):
        expected = "training.lora, and the student's own model as reference: it is the student without its adapter"
        yield recipe.problem(
            "reference.from", expected=expected, fix="add training.lora: {rank: 16}, or write from: auto"
        )
    if reference.origin in ("online", "adapter-off"):
        defaults = ReferenceSpec()
        for name in ("cache", "form", "k", "dtype"):
            if getattr(reference, name) != getattr(defaults, name):
                expected, fix = f"no {name}: from: {reference.origin} caches nothing", "write from: cached"
                yield recipe.problem(f"reference.{name}", expected=expected, fix=fix)
    yield from _served_faults(recipe, reference)
    if reference.origin in ("cached", "served"):
        reasons = {
            "generation.on_policy": recipe.generation.on_policy > 0 and "texts that the student draws are always new",
            "objective.matching": bool(recipe.objective.matching) and "matching compares the layers of both models",
        }
        for field, reason in reasons.items():
            if reason:
                expected = f"no {field.split('.')[1]} with a {reference.origin} reference: {reason}"
                yield recipe.problem(field, expected=expected, fix="leave it out, or write from: online")
    if reference.form == "top-k" and recipe.objective.divergence_name == "logit-mse":
        expected = "full or hidden: logit-mse needs every choice's logit, and the tail of a top-k has none"
        yield recipe.problem("reference.form", expected=expected, fix="write form: hidden, or another divergence")
    wrong = {"full": ("int8",), "top-k": ("int8",), "hidden": ()}.get(reference.form, ("int8",))
    if reference.dtype in wrong:
        expected = "float32 or float16: only the head's input is kept as int8"
        yield recipe.problem("reference.dtype", expected=expected, fix="write form: hidden with it, or dtype: auto")


def _served_faults(recipe: Recipe, reference: ReferenceSpec) -> Iterator[Problem]:
    """What a server can be asked for: the likeliest tokens of a decoder's text, of one model, at temperature 1."""
    if reference.origin != "served":
        for name in ("url", "allow_host"):
            if getattr(reference, name) is not None:
                fix = "write from: served"
                yield recipe.problem(f"reference.{name}", expected=f"no {name} without from: served", fix=fix)
        return
    if reference.url is None:
        fix = "add reference.url, such as http://127.0.0.1:8000"
        yield recipe.problem("reference.url", expected="where the server is", fix=fix)
    if not isinstance(reference.model, str):
        yield recipe.problem("reference.model", expected="one model's name on the server", fix="name one")
    if reference.form not in ("auto", "top-k"):
        yield recipe.problem(
            "reference.form", expected="top-k: a server gives the likeliest tokens", fix="leave it out"
        )
    if reference.temperature is not None:
        expected = "no temperature: of a server's likeliest tokens the rest has no logits to divide"
        yield recipe.problem("reference.temperature", expected=expected, fix="leave it out")
    if recipe.objective.temperature != 1:
        expected = "1: a server gives its probabilities at temperature 1"
        yield recipe.problem("objective.temperature", expected=expected, fix="leave it out")
    if recipe.objective.divergence_name == "logit-mse":
        expected = "another divergence: logit-mse needs every choice's logit"
        yield recipe.problem("objective.divergence", expected=expected, fix="take reverse-kl or forward-kl")
    if not recipe.has_teacher:
        expected = "a folder: the source model is loaded to be looked at, and to write"
        yield recipe.problem("reference.from", expected=expected, fix="write from: auto, or method: distillation")
    if recipe.generation.targets != "data":
        expected = "data: a server is asked for probabilities, not for texts"
        fix = "have it write them to a file, which is then data.train"
        yield recipe.problem("generation.targets", expected=expected, fix=fix)
