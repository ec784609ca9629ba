"""What a recipe may say of the divergence, its weight, and the terms of matching."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator

from keeltune.recipe.fields import Recipe
from keeltune.recipe.objective_fields import ObjectiveSpec, WeightRule
from keeltune.utils import registry
from keeltune.utils.errors import Problem, nearest, shown

_PARAMETER_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "beta": ("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "a": ("a number between 0 and 1", lambda value: 0 < value < 1),
}


def divergence_faults(recipe: Recipe) -> Iterator[Problem]:
    objective, name = recipe.objective, recipe.objective.divergence_name
    field = "objective.divergence" if isinstance(objective.divergence, str) else "objective.divergence.name"
    known = registry.names("divergences")
    if name not in known and ":" not in name:
        fix = f"choose one of them{nearest(name, known)}"
        yield recipe.problem(field, expected=f"one of: {', '.join(known)}", fix=fix)
    elif objective.divergence_parameters and ":" not in name:
        yield from parameter_faults(recipe)
    if name == "total-variation" and objective.temperature != 1:
        fix = "leave objective.temperature out, or choose another divergence"
        yield recipe.problem("objective.temperature", expected="1.0: total-variation has no T² scaling", fix=fix)


def matching_faults(recipe: Recipe) -> Iterator[Problem]:
    """Hidden states and attention are compared with one teacher's, by a student whose weights all train."""
    terms = recipe.objective.matching
    for name in terms:
        if reason := registry.check("matching", name):
            fix = "choose a name that there is, or leave it out"
            yield recipe.problem(f"objective.matching.{name}", found=shown(name), expected=reason, fix=fix)
    if not terms:
        return
    reasons = {
        "it is a term of distillation": recipe.method != "distillation",
        "it compares the student with one teacher": len(recipe.reference_models()) > 1,
        "it needs all weights of the student": recipe.training.lora is not None,
    }
    for reason in (reason for reason, holds in reasons.items() if holds):
        yield recipe.problem("objective.matching", expected=f"no matching: {reason}", fix="leave it out")


def parameter_faults(recipe: Recipe) -> Iterator[Problem]:
    """The divergence's own parameters, against its signature: the function is the one place that names them.

    One from outside the package is imported for it, and so checked before training, not when a recipe is read.
    """
    name = recipe.objective.divergence_name
    try:
        signature = inspect.signature(registry.find("divergences", name))
    except Exception as error:  # a module outside the package can fail in its own way when it is imported
        fix = "correct the name, or start the command where the module can be imported"
        yield recipe.problem(
            "objective.divergence.name", expected=f"a function that can be imported ({error})", fix=fix
        )
        return
    accepted = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    for parameter, value in recipe.objective.divergence_parameters.items():
        field = f"objective.divergence.{parameter}"
        expected, holds = _PARAMETER_RANGES.get(parameter, ("a number", math.isfinite))
        if parameter not in accepted:
            fix = f"leave it out{nearest(parameter, accepted)}"
            yield recipe.problem(
                field, expected=f"a parameter of {name}: {', '.join(accepted) or 'it has none'}", fix=fix
            )
        elif not holds(value):
            yield recipe.problem(field, expected=expected, fix=f"change {parameter}")


def fine_tuning_faults(recipe: Recipe) -> Iterator[Problem]:
    """Fine-tuning is the formula's first term alone; what belongs to the second would be ignored."""
    choose = "choose method: distillation (held near a teacher) or cross-domain (near its old self), or leave it out"
    objective, default = recipe.objective, ObjectiveSpec()
    if recipe.reference is not None:
        yield recipe.problem("reference", expected="no reference: fine-tuning is held near nothing", fix=choose)
    if objective.weight not in (None, 0):
        yield recipe.problem(
            "objective.weight", expected="no weight: fine-tuning has no divergence to weigh", fix=choose
        )
    for name in ("divergence", "temperature"):
        if getattr(objective, name) != getattr(default, name):
            yield recipe.problem(f"objective.{name}", expected=f"no {name}: fine-tuning has no divergence", fix=choose)
    if recipe.data.unlabeled is not None:
        expected = "no unlabelled rows: fine-tuning learns from labels alone"
        yield recipe.problem("data.unlabeled", expected=expected, fix=choose)
    if recipe.data.augment is not None:
        expected = "no variants of texts: they have no label, and fine-tuning has no reference to speak on them"
        yield recipe.problem("data.augment", expected=expected, fix=choose)


def weight_faults(recipe: Recipe) -> Iterator[Problem]:
    objective, rule = recipe.objective, recipe.weight_spec()
    if not isinstance(rule, WeightRule):
        return
    if len([value for value in rule.model_dump().values() if value is not None]) != 1:
        expected = "exactly one of confidence, max_kl, max_source_drop"
        yield recipe.problem("objective.weight", expected=expected, fix="keep one of them, or write a number")
    if rule.max_source_drop is not None and (recipe.has_teacher or recipe.data.source.validation is None):
        expected = "method: cross-domain and data.source.validation, on which the drop is measured while it trains"
        yield recipe.problem("objective.weight.max_source_drop", expected=expected, fix="add data.source.validation")
    if recipe.objective.anchor_head == "masked-lm" and (
        rule.max_source_drop or (rule.max_kl and not recipe.anchors_target)
    ):
        expected = "a number, or {max_kl: b} on rows of the target: of masked tokens no source rows are scored"
        yield recipe.problem("objective.weight", expected=expected, fix="write objective.weight: 1.0, say")
        return
    if rule.max_kl is not None:
        rows, name = recipe.data.named_validation, "data.validation"
        if not recipe.anchors_target:
            rows, name = recipe.data.source.validation, "data.source.validation"
        if rows is None and not recipe.anchors_generated:
            expected = f"{name}: rows that are not trained on, on which the divergence is measured"
            yield recipe.problem("objective.weight.max_kl", expected=expected, fix=f"add {name}")
    if rule.confidence is None:
        return
    if not recipe.anchors_target or recipe.objective.anchor_head != "task":
        expected = "a number: a confidence weighs the reference against labels, and what it holds has none"
        yield recipe.problem("objective.weight", expected=expected, fix="write objective.weight: 1.0, say")
        return
    found = "nothing, which is {confidence: 0.999} for cross-domain" if objective.weight is None else None
    if objective.divergence_name not in ("reverse-kl", "forward-kl"):
        expected = (
            f"a number: only reverse-kl and forward-kl turn a confidence into one, not {objective.divergence_name}"
        )
    elif objective.divergence_name == "forward-kl" and objective.temperature != 1:
        expected = "a number: forward-kl turns a confidence into one at temperature 1 only"
    elif recipe.data.train is None:
        expected = "a number: a confidence weighs the reference against labels, and there are none"
    else:
        return
    yield recipe.problem("objective.weight", found=found, expected=expected, fix="write objective.weight: 1.0, say")
