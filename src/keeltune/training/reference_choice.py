"""Which reference a run is held near: decided here alone, from the recipe's `reference` to what answers in training.

    reference.from   what answers
    auto             what costs least and changes nothing: a finished cache, a cache that pays, the student without its
                     adapter, else the models
    online           the models that `reference.model` names: `model`, or `ensemble` where there are several
    NAME             the class in that file of `objective/references/`, or my_package.my_module:Name

What a class needs (`Reference.needs`) says what the run prepares for it: models, a cache, the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keeltune.models import model_files
from keeltune.objective.references.adapter_off import AdapterOff
from keeltune.objective.references.cached import Cached
from keeltune.objective.references.ensemble import Ensemble
from keeltune.objective.references.model import Model
from keeltune.objective.references.reference import Need, Reference, ReferenceContext
from keeltune.recipe.fields import Recipe
from keeltune.recipe.paths import shared
from keeltune.recipe.reference_fields import RULES, ReferenceSpec
from keeltune.tasks.common.example import Example
from keeltune.training.cache import cost, identity
from keeltune.training.cache.capture import capture, find_or_capture
from keeltune.training.cache.finished import cache_facts, is_finished, open_answers
from keeltune.training.cache.identity import CacheRequest
from keeltune.training.job import Prepared, ReferenceSource
from keeltune.training.preparation.material import Material
from keeltune.training.reference_loading import context_of
from keeltune.utils import registry
from keeltune.utils.distributed import world_size
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.progress import Display
from keeltune.utils.tensor_store import Store

AHEAD: frozenset[Need] = frozenset({"cache", "server"})
"""Needs of a reference whose answers are captured ahead of training."""


def named_models(recipe: Recipe) -> list[str]:
    """Where the models lie that are read as the reference; none where `reference.from` needs none, or none is named."""
    spec = recipe.reference_spec()
    if spec is None or spec.model is None or "models" not in spec.needs:
        return []
    names = [spec.model] if isinstance(spec.model, str) else spec.model
    return [model_files.locate(name, recipe.path, recipe.where("reference"), "reference") for name in names]


def is_start(recipe: Recipe, models: Sequence[str], student: str) -> bool:
    """Whether the reference is the student as it was before training: no model is named, or the very same one.

    `models`: what `named_models` returned; `student`: where the student's weights lie.
    """
    spec = recipe.reference_spec()
    if spec is None or "models" not in spec.needs:
        return False
    return not models or (isinstance(recipe.model, str) and list(models) == [student])


def model_names(material: Material) -> list[str]:
    """The models of the reference as `result.json` lists them: folders as seen from the run's."""
    spec = material.recipe.reference_spec()
    if spec is None:
        return []
    if "models" not in spec.needs:
        return [spec.model] if isinstance(spec.model, str) else list(spec.model or ())
    folder = material.recipe.path(material.recipe.output)
    sources = [files.source for files in material.references] or [material.source]
    return [shared(Path(source), folder) if Path(source).is_dir() else source for source in sources]


def live_reference(recipe: Recipe, context: ReferenceContext) -> Reference:
    """What answers before training, and in it where nothing is cached: a class by itself, or the models."""
    spec = recipe.reference_spec()
    assert spec is not None
    if spec.origin not in RULES and not spec.needs & {"student", "cache"}:
        return _class_of(spec.origin).build(context)
    several = isinstance(spec.model, list) and len(spec.model) > 1
    return (Ensemble if several else Model).build(context)


@dataclass(frozen=True)
class ReferenceChoice:
    """What answers in training: `reference`, or what `of_student` builds when the student is complete; or nothing."""

    source: ReferenceSource
    reference: Reference | None = None
    of_student: type[Reference] | None = None


def choose_reference(
    material: Material,
    start: Prepared,
    examples: Sequence[Example],
    decided: ReferenceSource | None,
    display: Display,
) -> ReferenceChoice:
    """The reference that the recipe names; for `from: auto` the one that costs least and changes nothing.

    `examples`: all on which it will be evaluated. `decided`: what an earlier start of the run chose.
    """
    spec = material.recipe.reference_spec()
    if spec is None or material.recipe.only_writes():
        return ReferenceChoice(ReferenceSource())
    requested = _requested(spec, decided)
    needs: frozenset[Need] = frozenset({"models"}) if requested in RULES else _class_of(requested).needs
    reason = None if decided is None else decided.reason
    if "student" in needs:
        return _of_student(_class_of(requested), start, reason)
    unfit = cost.fits(material, examples) if examples else "nothing is held near it"
    ahead = bool(needs & AHEAD)
    if ahead and unfit is not None:
        raise not_cacheable(material, unfit)
    switchable = material.recipe.training.lora is not None and material.reference_is_start and spec.temperature is None
    if unfit is None and ahead:
        request = identity.cache_request(material, start.precision, examples)
        store = find_or_capture(request, material, start.live_reference, start.device, display)
        return _cached(material, start, store, _class_of(requested).kind, reason)
    if unfit is None and requested == "auto":
        filled, reason = _filled_if_it_pays(material, start, examples, switchable, display)
        if filled is not None:
            return _cached(material, start, filled, Cached.kind, reason)
    if switchable and requested == "auto":
        return _of_student(AdapterOff, start, reason)
    reference = start.live_reference()
    return ReferenceChoice(ReferenceSource(reference.kind, reason or unfit), reference)


def _requested(spec: ReferenceSpec, decided: ReferenceSource | None) -> str:
    """What the recipe names; for auto, what an earlier start chose; online where a caller wants no cache.

    What a run folder says names no class from outside the package: that is the recipe's to do.
    """
    if decided is not None and (spec.origin == "auto" or decided.kind == "online") and ":" not in decided.kind:
        return decided.kind
    return spec.origin


def _class_of(name: str) -> type[Reference]:
    reference_class: type[Reference] = registry.find("references", name)
    return reference_class


def _of_student(reference_class: type[Reference], start: Prepared, reason: str | None) -> ReferenceChoice:
    start.live_reference.drop()  # a copy that labelled rows or wrote texts, perhaps
    return ReferenceChoice(ReferenceSource(reference_class.kind, reason), of_student=reference_class)


def _cached(material: Material, start: Prepared, store: Store, kind: str, reason: str | None) -> ReferenceChoice:
    start.live_reference.drop()
    context = context_of(material, start.live_reference.models, start.autocast, start.device)
    answers = open_answers(store, material, start.device, start.autocast)
    cached = Cached.build(replace(context, cache=lambda: replace(answers, kind=kind)))
    return ReferenceChoice(ReferenceSource(kind, reason, cache_facts(store)), cached)


def _filled_if_it_pays(
    material: Material, start: Prepared, examples: Sequence[Example], switchable: bool, display: Display
) -> tuple[Store | None, str | None]:
    """A finished cache, or one that is filled here as that saves time, with the reason; or None.

    `switchable`: a student with an adapter gives its start for nothing.
    """
    request: CacheRequest | None = None
    if identity.cache_folder(material).is_dir():  # else nothing is hashed that no one may need
        request = identity.cache_request(material, start.precision, examples)
        if is_finished(request):
            return find_or_capture(request, material, start.live_reference, start.device, display), None
    if switchable or world_size() > 1:
        return None, None
    passes, unique = material.steps * start.plan.anchored_per_step, identity.ordered(examples)
    pays, reason = cost.worth(material, unique, start.live_reference(), start.device, passes)
    if not pays:
        return None, reason
    request = request or identity.cache_request(material, start.precision, examples)
    return capture(request, material, start.live_reference(), start.device, display), reason


def not_cacheable(material: Material, reason: str) -> UserError:
    """Why no cache can stand for this recipe's reference."""
    where, fix = material.recipe.where("reference"), "write from: online"
    return UserError(Problem(where, "reference.from", reason, "answers that stay the same from epoch to epoch", fix))


def uncached_class(recipe: Recipe) -> str | None:
    """Why `keeltune cache` cannot fill a cache ahead of this reference; None where it can."""
    spec = recipe.reference_spec()
    if spec is None or spec.origin in RULES or _class_of(spec.origin) in (Model, Ensemble):
        return None
    if spec.needs & AHEAD or spec.needs >= {"models", "student"}:  # before training the models answer
        return None
    return f"{spec.origin}, whose answers have no identity by which a cache could be told from another"
