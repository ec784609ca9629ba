"""Which reference a run is held near, and how its rows are put in the student's order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from keeltune.data.dataset import subset
from keeltune.models import loading
from keeltune.objective.derived_predictions import Shared
from keeltune.objective.references.ensemble import Ensemble
from keeltune.objective.references.model import Model
from keeltune.objective.references.reference import Reference, ToRows
from keeltune.objective.references.served import Served
from keeltune.tasks.common.example import Example
from keeltune.tasks.task import Task
from keeltune.training import anchor_head
from keeltune.training.cache import capture, cost, identity
from keeltune.training.job import ADAPTER_OFF, Prepared, ReferenceSource
from keeltune.training.preparation.compatibility import no_trained_head
from keeltune.training.preparation.material import Material
from keeltune.utils.distributed import world_size
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.progress import Display

MEASURED = 500
"""Held-out rows at most on which a budget of divergence is measured."""


def budget_examples(material: Material) -> list[Example]:
    """The rows on which a budget of divergence is measured, as the reference reads them: none is trained on."""
    recipe, rule = material.recipe, material.recipe.weight_spec()
    if isinstance(rule, float | int) or rule.max_kl is None:
        return []
    splits = {"validation": recipe.anchors_target, "source_validation": recipe.anchors_source}
    if recipe.anchors_generated:
        drawn = [example for row in material.encoded["generated_validation"] for example in row]
        return [replace(drawn[i], anchored=True) for i in subset(len(drawn), MEASURED)]
    rows = [row for split, held in splits.items() if held for row in material.rows[split]]
    chosen = [rows[i] for i in subset(len(rows), MEASURED)]
    if material.anchor_task is not None:
        encoded = [
            anchor_head.unlabelled(material.anchor_task, e)
            for row in chosen
            for e in material.task.encode_scored(row, labelled=False)
        ]
        return [replace(example, anchored=True) for example in encoded]
    encoded = [e for row in chosen for e in material.task.encode_for_all(row, scored=True)]
    return [replace(example, anchored=True) for example in encoded]


def choose_reference(
    material: Material, base: Prepared, examples: Sequence[Example], decided: ReferenceSource | None, display: Display
) -> tuple[Reference | None, ReferenceSource]:
    """The reference, from where the recipe says, or from where it costs least and changes nothing."""
    spec = material.recipe.reference_spec()
    if spec is None or material.recipe.only_writes():
        return None, ReferenceSource()
    asked, reason = (decided.kind, decided.reason) if decided is not None else (spec.origin, None)
    switchable = material.recipe.training.lora is not None and material.reference_is_start and spec.temperature is None
    if asked == ADAPTER_OFF:
        base.live_reference.drop()
        return None, ReferenceSource(ADAPTER_OFF, reason)
    unfit = cost.fits(material, examples) if examples else "nothing is held near it"
    if unfit is not None and asked in ("cached", "served"):
        raise not_cacheable(material, unfit)
    if asked in ("auto", "cached", "served") and unfit is None:
        want = store = None
        if asked != "auto" or identity.place(material).is_dir():  # else nothing is hashed that no one may need
            want = identity.wanted(material, base.precision, examples)
            store = capture.found(want)
        pays = asked != "auto" or store is not None
        if not pays and not switchable and world_size() == 1:
            passes, every = material.steps * base.plan.anchored_per_step, identity.ordered(examples)
            pays, reason = cost.worth(material, every, base.live_reference(), base.device, passes)
        if pays:
            if store is None:
                want = want or identity.wanted(material, base.precision, examples)
                store = capture.capture(want, material, base.live_reference(), base.device, display)
            base.live_reference.drop()
            kept = capture.opened(store, material, base.device, base.autocast)
            return kept, ReferenceSource(kept.kind, reason, capture.facts(store))
    if switchable and asked == "auto":
        base.live_reference.drop()  # a copy that drew texts, perhaps
        return None, ReferenceSource(ADAPTER_OFF, reason)
    reference = base.live_reference()
    return reference, ReferenceSource(reference.kind, reason or unfit)


def not_cacheable(material: Material, reason: str) -> UserError:
    """Why no cache can stand for this recipe's reference."""
    place, fix = material.recipe.where("reference"), "write from: online"
    return UserError(Problem(place, "reference.from", reason, "answers that stay the same from epoch to epoch", fix))


def load_reference(
    material: Material, student: loading.Loaded, autocast: Callable[[], AbstractContextManager[Any]], device: str
) -> Reference | None:
    recipe, task = material.recipe, material.task
    spec = recipe.reference_spec()
    if spec is None:
        return None
    if spec.origin == "served":
        assert isinstance(spec.model, str) and spec.url is not None
        choices = identity.choices_of(material)
        tokenizer = task.tokenizer
        return Served(
            spec.url,
            spec.model,
            min(spec.k, choices),
            vocabulary=choices,
            spell=lambda i: str(tokenizer.decode([i], clean_up_tokenization_spaces=False)),
            allow_host=spec.allow_host or "",
        )
    if material.reference_is_start:
        require_trained_head(student, recipe.where("method"))
        own, (temperature,) = copy.deepcopy(student.model).to(device), spec.temperatures(1)
        return Model(own, task.rows, autocast, forward=task.forward, temperature=temperature)
    members = []
    for files, temperature in zip(material.references, spec.temperatures(len(material.references)), strict=True):
        loaded = loading.load(
            files.source,
            files.auto_model,
            loading.Head(files.names, task.settings.multi_label),
            where=recipe.where("reference"),
            field="reference",
            reads=task.reads,
        )
        require_trained_head(loaded, recipe.where("reference"))
        reader = files.reader or task
        if files.reader is not None:
            reader.processor = loaded.processor
        order = [files.names.index(name) for name in task.settings.labels]
        to_rows = on_shared_ids(reordered(reader, order), files.shared, device)
        forward = reader.forward
        members.append(Model(loaded.model.to(device), to_rows, autocast, files.companion, forward, temperature))
    return members[0] if len(members) == 1 else Ensemble(members, spec.weight)


def reordered(task: Task, order: list[int]) -> ToRows:
    """The task's `rows`, for a model that lists the labels in another order."""
    if order == sorted(order):
        return task.rows
    return lambda outputs, batch: task.rows(outputs, batch, order)


def on_shared_ids(to_rows: ToRows, ids: Sequence[int] | None, device: str) -> ToRows:
    """`to_rows` of a reference that is compared with the student on these token ids alone."""
    if ids is None:
        return to_rows
    kept = capture.kept_choices(ids, device)
    assert kept is not None
    return lambda outputs, batch: Shared(to_rows(outputs, batch), kept)


def require_trained_head(loaded: loading.Loaded, where: str) -> None:
    if loaded.fresh:
        raise UserError(no_trained_head(loaded.source, loaded.fresh, where))
