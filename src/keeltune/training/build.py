"""From what a recipe names to what trains: the student, the reference, the objective and the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from keeltune.models import initialization, loading, model_files, surgery
from keeltune.models.lora import add_adapter
from keeltune.objective.formula import Objective, confidence_weight, find_divergence
from keeltune.objective.matching.matching import Matching, Unmatched, requesting
from keeltune.objective.references.adapter_off import AdapterOff
from keeltune.objective.references.model import Model
from keeltune.objective.references.reference import Reference
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import NewModel, StudentFrom
from keeltune.tasks.common.batches import to_device
from keeltune.tasks.common.example import NOTE_SAMPLE, Example
from keeltune.tasks.task import Task
from keeltune.training import anchor_head, teacher_targets
from keeltune.training.anchor_head import AnchorHead
from keeltune.training.batch_plan import Plan, Stream
from keeltune.training.job import ADAPTER_OFF, Job, LazyReference, Prepared, ReferenceSource
from keeltune.training.matching_terms import matching_terms
from keeltune.training.preparation.compatibility import NEW
from keeltune.training.preparation.material import Material
from keeltune.training.reference_choice import budget_examples, choose_reference, load_reference, require_trained_head
from keeltune.training.regularization import regularizers_of
from keeltune.utils.device import autocast as autocast_on
from keeltune.utils.device import choose_precision, this_device
from keeltune.utils.distributed import world_size
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.progress import Display

FIRST_WEIGHT = 0.3
"""The weight with which a budget starts."""

PROBED = 2
"""Rows on which the layers of student and teacher are paired."""


def prepared(material: Material, display: Display, precision: str | None = None) -> Prepared:
    """Loads the student, has the teacher write the texts that lack, and lays out the plan.

    `precision`: what an earlier start of a run chose for `auto`: timed again, a busy machine might choose otherwise.
    """
    recipe, task = material.recipe, material.task
    device = this_device()
    precision = precision or choose_precision(recipe.training.precision, device, world_size())
    autocast = autocast_on(precision, device)
    torch.manual_seed(recipe.seed)  # a new head is drawn from it
    student = start(material)
    task.processor = student.processor  # with its padding token
    task.annotate(student.model.config, material.examples["train"])
    student.model.to(device)
    live = LazyReference(lambda: load_reference(material, student, autocast, device))
    teacher_targets.write_targets(material, live, autocast, device, display)
    teacher_targets.label(material, live, student, device, display)
    teacher_targets.draw(material, live, autocast, device, display)
    return Prepared(student, live, _plan(material), precision, autocast, device)


def start(material: Material) -> loading.Loaded:
    """The student as it is before training. Without a new head it is the same each time."""
    recipe, task = material.recipe, material.task
    if isinstance(recipe.model, NewModel):
        student = initialization.load(
            recipe.model, recipe, material.config, material.processor, material.auto_model, task.settings.labels
        )
    else:
        student = loading.load(
            material.source,
            material.auto_model,
            loading.Head(
                task.settings.labels, task.settings.multi_label, material.new_head and task.choices == "labels"
            ),
            where=recipe.where("model"),
            field="model",
            reads=task.reads,
        )
    if isinstance(recipe.model, StudentFrom):
        student = surgery.cut_layers(
            student, material.auto_model, recipe.model.layers, recipe.where("model"), "model.layers"
        )
    for regularizer in regularizers_of(recipe):
        student = regularizer.on_load(student, material.auto_model, recipe.seed)
    return student


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
    recipe, task, display = material.recipe, material.task, display or Display(quiet=True)
    base = prepared(material, display, precision)
    measured = budget_examples(material)
    second: AnchorHead | None = None
    if material.anchor_task is None:
        reference, chosen = choose_reference(
            material, base, [*base.plan.anchored_examples(), *measured], reference_source, display
        )
    else:
        if world_size() > 1:
            found, expected = "several processes", "one: the second head is no part of what they share"
            place = recipe.where("objective")
            raise UserError(Problem(place, "objective.anchor_head", found, expected, "start with one process"))
        second, reference = anchor_head.make(material, base.student, base.autocast, base.device)
        chosen = ReferenceSource(reference.kind, f"its head: {recipe.objective.anchor_head}")
    model = _with_adapter(base.student.model, recipe, task)
    if chosen.kind == ADAPTER_OFF:
        require_trained_head(base.student, recipe.where("method"))
        reference = AdapterOff(model, task.rows, base.autocast, task.forward)
    regularizers = regularizers_of(recipe)
    notes = [note for regularizer in regularizers if (note := regularizer.on_model(model))]
    base.student = replace(base.student, notes=(*base.student.notes, *notes))
    half = None if material.source == NEW else model_files.half_precision(material.source, material.config)
    matching = _matching(material, model, reference, base.autocast, base.device)
    return Job(
        material,
        base.student,
        model,
        half,
        reference,
        chosen,
        objective(recipe),
        matching,
        base.plan,
        base.precision,
        base.autocast,
        base.device,
        base.live_reference,
        measured,
        second,
        regularizers,
    )


def _with_adapter(model: Any, recipe: Recipe, task: Task) -> Any:
    """The model with the recipe's adapter, or as it is where all weights train."""
    lora = recipe.training.lora
    if lora is None:
        return model
    return add_adapter(
        model,
        rank=lora.rank,
        alpha=lora.alpha or 2 * lora.rank,
        dropout=lora.dropout,
        modules=lora.target_modules,
        train_head=task.choices != "tokens",
    )


def _matching(
    material: Material,
    student: Any,
    reference: Reference | None,
    autocast: Callable[[], AbstractContextManager[Any]],
    device: str,
) -> Matching | None:
    """The recipe's terms beside D, their projections added to the student (which they leave before it is saved)."""
    recipe, task = material.recipe, material.task
    terms = matching_terms(recipe)
    if not terms:
        return None

    def refuse(found: str, expected: str) -> UserError:
        return UserError(Problem(recipe.where("objective"), "objective.matching", found, expected, "leave it out"))

    assert isinstance(reference, Model)
    if reference.entry is not None:
        raise refuse("a teacher with another tokenizer", "one that reads the very tokens that the student reads")
    if attends := any(term.output == "attentions" for term in terms):
        both: tuple[Any, ...] = (student, reference.model)
        for model in both:
            model.set_attn_implementation("eager")  # the others do not say where a head looks
        surgery.no_attention_dropout(student)
    batch = requesting(terms, to_device(task.collate(material.main_stream[:PROBED]), device))
    student.eval()
    with torch.random.fork_rng(), torch.no_grad(), autocast():
        torch.manual_seed(recipe.seed)
        ours, theirs = task.forward(student, batch), reference.outputs(batch)
        try:
            matching = Matching(terms, ours, theirs)
        except Unmatched as error:
            found, expected = str(error).removeprefix("found ").split(", expected ")
            raise refuse(found, expected) from error
        if attends:
            student.train()
            noisy = task.forward(student, batch)
            if not matching.attentions_sum_to_one(noisy):
                raise refuse("a student whose attention dropout cannot be switched off", "weights that sum to 1")
    matching.attach(student)
    return matching


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
    return _collate(job.material.task, job.material.anchor_task, examples)


def _collate(task: Task, old: Task | None, examples: Sequence[Example]) -> dict[str, Any]:
    """A micro-batch, with the rows that carry D as the reference reads them where that is not the batch itself."""
    if old is None:
        return task.collate_anchored(examples)
    held = anchor_head.collate(old, examples)
    return task.collate(examples) | ({} if held is None else {"anchored_batch": held})


def _together(examples: Sequence[Example]) -> dict[str, Any]:
    """A micro-batch of which some texts are still to be drawn: the trainer collates when they are."""
    return {"examples": list(examples)}


def _plan(material: Material) -> Plan:
    recipe = material.recipe
    step_size = material.batch_size * material.micro_batches
    examples = material.examples
    soft = recipe.data.unlabeled_as == "distribution"  # else, at weight 0, the reference has said all that it will
    anchored = recipe.reference_spec() is not None and not recipe.only_writes()
    anchored = anchored and (soft or recipe.weight_spec() != 0)
    held = {"train": anchored and recipe.anchors_target, "source_train": False}
    held |= dict.fromkeys(("source_unlabeled", "generated"), anchored)

    def of(split: str) -> list[Example]:
        return [replace(example, anchored=held.get(split, soft)) for example in examples[split]]

    main = of("train") or of("unlabeled")
    streams = [
        Stream(split.replace("_", "-"), of(split), share * step_size) for split, share in material.stream_ratios.items()
    ]
    collate: Callable[[Sequence[Example]], dict[str, Any]] = partial(_collate, material.task, material.anchor_task)
    if share := recipe.generation.on_policy:
        asked = [e for row in material.rows["unlabeled"] or material.rows["train"] for e in
                 material.task.encode_scored(row, labelled=False)]  # fmt: skip
        drawn = [replace(e, anchored=True, notes={**e.notes, NOTE_SAMPLE: True}) for e in asked]
        streams.append(Stream("on-policy", drawn, share * step_size))
        collate = _together
    return Plan(
        main,
        streams,
        batch_size=material.batch_size,
        micro_batches=material.micro_batches,
        seed=recipe.seed,
        collate=collate,
        whole=not material.task.separable,
    )
