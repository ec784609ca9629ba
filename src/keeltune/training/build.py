"""From what a recipe names to what trains: the student, the reference, the objective and the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from keeltune.models import model_files
from keeltune.models.four_bit import take_out
from keeltune.models.loading import Loaded
from keeltune.models.lora import add_adapter, load_adapter
from keeltune.objective.formula import Objective, confidence_weight, find_divergence
from keeltune.objective.references.reference import Reference
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common.example import Example
from keeltune.training import anchor_head, reference_loading, teacher_targets
from keeltune.training.anchor_head import AnchorHead
from keeltune.training.budget_examples import budget_examples
from keeltune.training.job import Job, Prepared, ReferenceSource
from keeltune.training.layer_matching import match_layers
from keeltune.training.lazy_reference import LazyReference
from keeltune.training.model_trial import require_packable, try_model
from keeltune.training.preparation.head_compatibility import NEW
from keeltune.training.preparation.material import Material
from keeltune.training.preparation.row_encoding import heard
from keeltune.training.reference_choice import ReferenceChoice, choose_reference, live_reference
from keeltune.training.regularization import regularizers_of
from keeltune.training.streams import collate_for_reference, training_plan
from keeltune.training.student import initial_student, student_holding
from keeltune.utils.device import autocast as autocast_on
from keeltune.utils.device import choose_precision, this_device
from keeltune.utils.distributed import world_size
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.progress import Display

FIRST_WEIGHT = 0.3
"""The weight with which a budget starts."""


def prepared(material: Material, display: Display, precision: str | None = None) -> Prepared:
    """Loads the student, has the teacher write the texts that lack, and lays out the plan.

    `precision`: what an earlier start of a run chose for `auto`: timed again, a busy machine might choose otherwise.
    """
    recipe, task = material.recipe, material.task
    device = this_device()
    precision = precision or choose_precision(recipe.training.precision, device, world_size())
    autocast = autocast_on(precision, device)
    torch.manual_seed(recipe.seed)  # a new head is drawn from it
    held = student_holding(material, precision)
    student = initial_student(material, held)
    notes = task.adopt(student.model, student.processor, material.examples["train"])
    student.model.to(device)
    if listened := heard(task, student.model, material.rows, material.encoded, device):
        notes += [*listened, *task.adopt(student.model, student.processor, material.examples["train"])]
    bits = "four bits" if held.four_bit else "bfloat16"
    notes += [] if held.dtype == torch.float32 else [f"the frozen weights are held in {bits}; what trains is float32"]
    student = replace(student, notes=(*student.notes, *notes))
    task.annotate(student.model.config, material.examples["train"])
    try_model(student.model, task, material.examples["train"], device, (recipe.where("model"), "model"))
    if recipe.training.packing:
        require_packable(student.model, task, material.main_stream, device, recipe.where("training.packing"))
    reference = LazyReference(
        lambda: reference_loading.load_models(material, student, autocast, device, precision),
        lambda models: live_reference(recipe, reference_loading.context_of(material, models, autocast, device)),
    )
    listen = partial(task.listen, student.model, device=device)
    teacher_targets.write_targets(material, reference, autocast, display, listen)
    teacher_targets.label(material, reference, student, device, display)
    teacher_targets.sample(material, reference, autocast, device, display)
    return Prepared(student, reference, training_plan(material), precision, autocast, device)


def build(
    material: Material,
    display: Display | None = None,
    reference_source: ReferenceSource | None = None,
    precision: str | None = None,
) -> Job:
    """Loads the student and the reference, and lays out the plan. Raises UserError where they do not fit.

    Where the teacher writes targets or fills a cache, it does so here, ahead of training; `display` shows it.
    `reference_source`, `precision`: what an earlier start of a run decided, in place of `reference.from` and `auto`.
    """
    recipe, display = material.recipe, display or Display(quiet=True)
    start = prepared(material, display, precision)
    measured = budget_examples(material)
    head: AnchorHead | None = None
    if material.anchor_task is None:
        anchored = start.plan.anchored_examples()
        examples = [*anchored, *measured] if measured else anchored
        choice = choose_reference(material, start, examples, reference_source, display)
    else:
        head, choice = _anchor_head(material, start)
    model = _adapted(material, start.student)
    reference = choice.reference
    if choice.of_student is not None:
        reference = _of_student(material, start, choice.of_student, model)
    regularizers = regularizers_of(recipe)
    notes = [note for regularizer in regularizers if (note := regularizer.on_model(model))]
    start.student = replace(start.student, notes=(*start.student.notes, *notes))
    half = None if material.source == NEW else model_files.half_precision(material.source, material.config)
    matching = match_layers(material, model, reference, start.autocast, start.device)
    return Job(
        material,
        start.student,
        model,
        half,
        reference,
        choice.source,
        objective(recipe),
        matching,
        start.plan,
        start.precision,
        start.autocast,
        start.device,
        start.live_reference,
        measured,
        head,
        regularizers,
    )


def _anchor_head(material: Material, start: Prepared) -> tuple[AnchorHead, ReferenceChoice]:
    """The second head, and the reference that answers for it."""
    recipe = material.recipe
    if world_size() > 1:
        found, expected = "several processes", "one: the second head is no part of what they share"
        where = recipe.where("objective")
        raise UserError(Problem(where, "objective.anchor_head", found, expected, "start with one process"))
    head, reference = anchor_head.make(material, start.student, start.autocast, start.device)
    source = ReferenceSource(reference.kind, f"its head: {recipe.objective.anchor_head}")
    return head, ReferenceChoice(source, reference)


def out_of_four_bits(job: Job) -> Any:
    """The trained model, adapter and all, in float32 on the numbers that its quantised weights stand for."""
    material, task = job.material, job.material.task
    with torch.random.fork_rng():
        plain = replace(initial_student(material), fresh=job.student.fresh)
        task.adopt(plain.model, plain.processor, material.examples["train"])
        task.annotate(plain.model.config, material.examples["train"])
        take_out(plain.model, job.student.model)
        adapted = _adapted(material, plain)
    load_adapter(adapted, job.model)
    return adapted.to(job.device).eval()


def _adapted(material: Material, student: Loaded) -> Any:
    """The student with the recipe's adapter, or as it is."""
    lora = material.recipe.training.lora
    if lora is None:
        return student.model
    return add_adapter(student.model, lora, train_head=material.task.choices != "tokens", fresh=student.fresh)


def _of_student(material: Material, start: Prepared, reference_class: type[Reference], model: Any) -> Reference:
    """A reference that reads the student itself."""
    if material.reference_is_start:
        reference_loading.require_trained_head(start.student, material.recipe.where("method"))
    models = start.live_reference.models
    context = reference_loading.context_of(material, models, start.autocast, start.device)
    return reference_class.build(replace(context, student=model))


def objective(recipe: Recipe) -> Objective:
    spec = recipe.objective
    name, parameters = spec.divergence_name, spec.divergence_parameters
    divergence = find_divergence(name, **parameters) if parameters else name
    weight = recipe.weight_spec()
    if isinstance(weight, int | float):
        return Objective(divergence, float(weight), spec.temperature)
    if weight.confidence is not None:
        return Objective(divergence, confidence_weight(weight.confidence, name), spec.temperature, per_label=True)
    return Objective(divergence, FIRST_WEIGHT, spec.temperature)  # a budget changes it while it trains


def collated(job: Job, examples: Sequence[Example]) -> dict[str, Any]:
    """Some examples as training meets them."""
    return collate_for_reference(job.material.task, job.material.anchor_task, examples)
