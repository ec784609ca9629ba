"""What a recipe may say of its reference: a teacher, the student's old self, or a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from keeltune.recipe.fields import Recipe
from keeltune.recipe.objective_validation import weight_faults
from keeltune.recipe.reference_fields import RULES, ReferenceSpec
from keeltune.utils import registry
from keeltune.utils.errors import Problem, UserError, nearest
from keeltune.utils.server_address import plain_url

CAPTURED = frozenset({"cache", "server"})
"""Needs of a reference whose answers are captured ahead of training."""

READ = frozenset({"models", "server"})
"""Needs of a reference that `reference.model` names."""


def anchor_faults(recipe: Recipe) -> Iterator[Problem]:
    """The second term of distillation and cross-domain fine-tuning: its reference and its weight.

    A class from outside the package is not imported here, as a recipe may come from a run folder: `class_faults`.
    """
    reference = recipe.reference_spec()
    if reference is None or ":" not in reference.origin:
        yield from _faults_of(recipe, reference)
    yield from weight_faults(recipe)


def class_faults(recipe: Recipe) -> Iterator[Problem]:
    """The faults of a reference from outside the package, whose class is imported for it; checked before training."""
    reference = recipe.reference_spec()
    if reference is not None and ":" in reference.origin:
        yield from _faults_of(recipe, reference)


def _faults_of(recipe: Recipe, reference: ReferenceSpec | None) -> Iterator[Problem]:
    if reference is not None and reference.origin not in RULES and registry.fault("references", reference.origin):
        yield _unknown_reference(recipe, reference.origin)
        return
    if recipe.method == "distillation" and (reference is None or (reference.model is None and reference.needs & READ)):
        yield recipe.problem("reference", expected="a teacher: distillation needs one", fix="add reference: TEACHER")
    if isinstance(recipe.reference, ReferenceSpec):
        yield from _reference_faults(recipe, recipe.reference)


def _unknown_reference(recipe: Recipe, name: str) -> Problem:
    known = sorted([*RULES, *registry.names("references")])
    expected = f"one of: {', '.join(known)}; or my_package.my_module:Name"
    reason = registry.fault("references", name) if ":" in name else None
    return recipe.problem(
        "reference.from", expected=expected, fix=reason or f"choose one of them{nearest(name, known)}"
    )


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
    if reference.held != "auto" and recipe.training.lora is not None and models == [recipe.model]:
        expected = "no held: under training.lora the student's start is held as training.lora.base says"
        yield recipe.problem("reference.held", expected=expected, fix="write it there, or leave it out")
    if reference.origin == "adapter-off" and (recipe.training.lora is None or models != [recipe.model]):
        expected = "training.lora, and the student's own model as reference: it is the student without its adapter"
        yield recipe.problem(
            "reference.from", expected=expected, fix="add training.lora: {rank: 16}, or write from: auto"
        )
    if reference.origin != "auto" and not reference.needs & CAPTURED:
        defaults = ReferenceSpec()
        for name in ("cache", "form", "k", "dtype"):
            if getattr(reference, name) != getattr(defaults, name):
                expected, fix = f"no {name}: from: {reference.origin} caches nothing", "write from: cached"
                yield recipe.problem(f"reference.{name}", expected=expected, fix=fix)
    yield from _served_faults(recipe, reference)
    yield from _class_faults(recipe, reference)
    if reference.needs & CAPTURED:
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


def _class_faults(recipe: Recipe, reference: ReferenceSpec) -> Iterator[Problem]:
    """What a class of the shelf, or of one's own, has no use for, by what it needs."""
    origin, needs = reference.origin, reference.needs
    if origin == "model" and len(recipe.reference_models()) > 1:
        fix = "name one, or write from: ensemble"
        yield recipe.problem("reference.model", expected="one model: several are an ensemble", fix=fix)
    if reference.held != "auto" and "models" not in needs:
        expected = f"no held: from: {origin} loads no models"
        yield recipe.problem("reference.held", expected=expected, fix="leave it out")
    if "models" not in needs and "server" not in needs:
        for name in ("weight", "temperature"):
            if getattr(reference, name) is not None:
                expected = f"no {name}: from: {origin} reads no models"
                yield recipe.problem(f"reference.{name}", expected=expected, fix="leave it out")
        reasons = {
            "generation.targets": recipe.generation.targets != "data" and "data: there is no model that writes them",
            "objective.anchor_on": recipe.anchors_generated and "target, source or both: there is no model that writes",
            "data.unlabeled_as": "student" in needs and recipe.data.unlabeled_as != "distribution"
            and "distribution: there is no model that labels them ahead of training",
        }  # fmt: skip
        for field, expectation in reasons.items():
            if expectation:
                expected = f"{expectation} (from: {origin} reads no models)"
                yield recipe.problem(field, expected=expected, fix="leave it out, or write from: online")
    if recipe.objective.matching and not (needs & CAPTURED or origin in (*RULES, "model", "adapter-off")):
        expected = f"no matching with from: {origin}: it compares the layers of one loaded model"
        yield recipe.problem("objective.matching", expected=expected, fix="leave it out, or write from: online")


def _served_faults(recipe: Recipe, reference: ReferenceSpec) -> Iterator[Problem]:
    """What a server can be asked for: the likeliest tokens of a decoder's text, of one model, at temperature 1."""
    if "server" not in reference.needs:
        for name in ("url", "allow_host"):
            if getattr(reference, name) is not None:
                fix = "write from: served"
                yield recipe.problem(f"reference.{name}", expected=f"no {name} without from: served", fix=fix)
        return
    if reference.url is None:
        fix = "add reference.url, such as http://127.0.0.1:8000"
        yield recipe.problem("reference.url", expected="where the server is", fix=fix)
    else:
        try:
            plain_url(reference.url)
        except UserError as error:
            yield from (replace(p, where=recipe.where("reference.url"), field="reference.url") for p in error.problems)
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
