"""The models of a reference, loaded, their predictions put in the student's order; and what a reference is built of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from keeltune.models import loading, shared_weights
from keeltune.models.half_precision import HALF, reads_sound_and_pictures
from keeltune.objective.derived_predictions import Shared
from keeltune.objective.references.model import Model
from keeltune.objective.references.reference import Autocast, Reference, ReferenceContext, ToRows
from keeltune.tasks.task import Task
from keeltune.training.cache.finished import selected
from keeltune.training.cache.identity import choices_of
from keeltune.training.model_trial import try_model
from keeltune.training.preparation.compatibility import ReferenceFiles
from keeltune.training.preparation.head_compatibility import no_trained_head
from keeltune.training.preparation.material import Material
from keeltune.training.reference_holding import holding_of, start_dtype
from keeltune.utils.errors import UserError


def load_models(
    material: Material, student: loading.Loaded, autocast: Autocast, device: str, precision: str
) -> list[Model]:
    """The models that `reference.model` names, frozen; or a copy of the student, which has not been trained yet.

    Where only adapters train, what is equal to the student's frozen weights is held once.
    """
    recipe, task = material.recipe, material.task
    spec = recipe.reference_spec()
    assert spec is not None
    if material.reference_is_start:
        require_trained_head(student, recipe.where("method"))
        (temperature,) = spec.temperatures(1)
        start = _start(material, student, device, start_dtype(material, precision))
        return [Model(start, task.rows, autocast, forward=task.forward, temperature=temperature)]
    temperatures = spec.temperatures(len(material.references))
    models = []
    for files, temperature in zip(material.references, temperatures, strict=True):
        loaded = _loaded(material, files, precision)
        if recipe.training.lora is not None:
            shared_weights.share(loaded.model, student.model)
        models.append(_model(material, files, loaded, temperature, autocast, device))
    return models


def _start(material: Material, student: loading.Loaded, device: str, dtype: torch.dtype) -> Any:
    """The student as it is now, beside the one that trains."""
    if material.recipe.training.lora is not None:
        return shared_weights.copy_of(student.model).to(device)
    start = copy.deepcopy(student.model).to(device)
    if dtype in HALF:
        for weight in start.parameters():  # not the buffers: angles of positions are none of its weights
            weight.data = weight.data.to(dtype)
        reads_sound_and_pictures(start)
        place = (material.recipe.where("reference"), "reference")
        try_model(start, material.task, material.examples["train"], device, place)
    return start


def _loaded(material: Material, files: ReferenceFiles, precision: str) -> loading.Loaded:
    recipe, task = material.recipe, material.task
    loaded = loading.load(
        files.source,
        files.auto_model,
        loading.Head(files.names, task.settings.multi_label, numbers=task.choices == "numbers"),
        where=recipe.where("reference"),
        field="reference",
        reads=task.reads,
        held=holding_of(material, files.source, precision),
    )
    require_trained_head(loaded, recipe.where("reference"))
    return loaded


def _model(
    material: Material, files: ReferenceFiles, loaded: loading.Loaded, temperature: float, autocast: Autocast,
    device: str,
) -> Model:  # fmt: skip
    recipe, task = material.recipe, material.task
    reader = files.reader or task
    if files.reader is not None:
        reader.adopt(loaded.model, loaded.processor)
    order = [files.names.index(name) for name in task.settings.labels]
    to_rows = task.converted(reordered(reader, order), loaded.model.config)
    to_rows = on_shared_ids(to_rows, files.shared, device)
    loaded.model.to(device)
    name = files.companion
    if files.reader is None or name is not None:  # one that only writes reads rows of its own
        examples = material.examples["train"]
        examples = examples if name is None else [example.others[name] for example in examples]
        try_model(loaded.model, reader, examples, device, (recipe.where("reference"), "reference"))
    return Model(loaded.model, to_rows, autocast, name, reader.forward, temperature)


def reordered(task: Task, order: list[int]) -> ToRows:
    """The task's `rows`, for a model that lists the labels in another order."""
    if order == sorted(order):
        return task.rows
    return lambda outputs, batch: task.rows(outputs, batch, order)


def on_shared_ids(to_rows: ToRows, ids: Sequence[int] | None, device: str) -> ToRows:
    """`to_rows` of a reference that is compared with the student on these token ids alone."""
    shared = selected(ids, device)
    if shared is None:
        return to_rows
    return lambda outputs, batch: Shared(to_rows(outputs, batch), shared)


def require_trained_head(loaded: loading.Loaded, where: str) -> None:
    if loaded.fresh:
        raise UserError(no_trained_head(loaded.source, loaded.fresh, where))


def context_of(
    material: Material, models: Callable[[], Sequence[Reference]], autocast: Autocast, device: str
) -> ReferenceContext:
    """What this run has for the reference that its recipe names; the student and the cache come later."""
    recipe, task = material.recipe, material.task
    spec, tokenizer = recipe.reference_spec(), task.tokenizer
    assert spec is not None
    writes = task.choices == "tokens"
    return ReferenceContext(
        spec.model_dump(by_alias=True),
        choices_of(material),
        task.rows,
        list(task.settings.labels),
        task.forward,
        autocast,
        device,
        (lambda i: str(tokenizer.decode([i], clean_up_tokenization_spaces=False))) if writes else None,
        models,
    )
