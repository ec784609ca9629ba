"""From what a recipe names to what trains: the student, the reference, the objective and the plan."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from keeltune import ahead, beside, cache, cache_identity, machine, models, newborn, registry, surgery
from keeltune.batching import Plan, Stream
from keeltune.beside import Beside
from keeltune.display import Display
from keeltune.evaluation import subset
from keeltune.fitting import NEW, no_trained_head
from keeltune.matching.matching import Matching, Unmatched, asking
from keeltune.objective import Objective, confidence_weight, named
from keeltune.prepare import OLD, Material, world_size
from keeltune.problems import Problem, UserError
from keeltune.recipe import NewModel, Recipe, StudentFrom
from keeltune.references import AdapterOff, Ensemble, Model
from keeltune.references.reference import Reference, ToRows
from keeltune.references.served import Served
from keeltune.regularizers.frozen_embeddings import frozen_embeddings
from keeltune.regularizers.new_top_layers import new_top_layers
from keeltune.rows import Shared
from keeltune.tasks.task import DRAWN, Example, Task, to_device

ADAPTER_OFF = "adapter-off"

FIRST_WEIGHT = 0.3
"""The weight with which a budget starts."""

MEASURED = 500
"""Held-out rows at most on which a budget of divergence is measured."""

PROBED = 2
"""Rows on which the layers of student and teacher are paired."""


@dataclass
class Job:
    """Everything that trains: the student, the reference, the objective and the plan."""

    material: Material
    student: models.Loaded
    model: Any
    half: torch.dtype | None
    reference: Reference | None
    origin: Origin
    objective: Objective
    matching: Matching | None
    plan: Plan
    precision: str
    autocast: Callable[[], AbstractContextManager[Any]]
    device: str
    live: Live
    slice: Sequence[Example] = ()
    beside: Beside | None = None

    def of(self, split: str, model: Any) -> tuple[Task, Any]:
        """Who answers a split's rows: the source domain's old labels are the second head's, where there is one."""
        second = self.beside is not None and split in OLD
        return (self.beside.task, self.beside.model) if second and self.beside else (self.material.task, model)

    @property
    def budget(self) -> tuple[str | None, float | None]:
        """The recipe's budget, `max_kl` or `max_source_drop`, and its limit."""
        rule = self.material.recipe.weight_spec()
        held = {} if isinstance(rule, float | int) else {"max_kl": rule.max_kl, "max_source_drop": rule.max_source_drop}
        return next(((kind, limit) for kind, limit in held.items() if limit is not None), (None, None))

    @property
    def starts_known(self) -> bool:
        """Whether the weights before training can be read again: none of them were drawn."""
        return not self.student.fresh and self.material.source != NEW


@dataclass(frozen=True)
class Origin:
    """Where the reference's answers come from, why, and the cache's facts. A resumed run keeps the first one's."""

    kind: str = "none"
    reason: str | None = None
    cache: dict[str, Any] | None = None


class Live:
    """The reference as loaded models: made when someone first asks, and let go when nobody needs it any more."""

    def __init__(self, make: Callable[[], Reference | None]):
        self._make, self._made = make, False
        self._reference: Reference | None = None

    def __call__(self) -> Reference:
        if not self._made:
            with torch.random.fork_rng():  # training starts from the same random state, whoever was loaded before
                self._reference, self._made = self._make(), True
        assert self._reference is not None
        return self._reference

    def drop(self) -> None:
        self._reference, self._made = None, False


@dataclass
class Basis:
    """What a reference and its cache need of a recipe: the student at its start, the plan, how and where models run."""

    student: models.Loaded
    live: Live
    plan: Plan
    precision: str
    autocast: Callable[[], AbstractContextManager[Any]]
    device: str


def basis(material: Material, display: Display, precision: str | None = None) -> Basis:
    """Loads the student, has the teacher write the texts that lack, and lays out the plan.

    `precision`: what an earlier start of a run chose for `auto`: timed again, a busy machine might choose otherwise.
    """
    recipe, task = material.recipe, material.task
    device = machine.this_device()
    precision = precision or machine.choose_precision(recipe.training.precision, device, world_size())
    autocast = machine.autocast(precision, device)
    torch.manual_seed(recipe.seed)  # a new head is drawn from it
    student = start(material)
    task.processor = student.processor  # with its padding token
    task.mark(student.model.config, material.examples["train"])
    student.model.to(device)
    live = Live(lambda: _reference(material, student, autocast, device))
    ahead.write_targets(material, live, autocast, device, display)
    ahead.label(material, live, student, device, display)
    ahead.draw(material, live, autocast, device, display)
    return Basis(student, live, _plan(material), precision, autocast, device)


def start(material: Material) -> models.Loaded:
    """The student as it is before training. Without a new head it is the same each time."""
    recipe, task = material.recipe, material.task
    if isinstance(recipe.model, NewModel):
        student = newborn.load(
            recipe.model, recipe, material.config, material.processor, material.auto_model, task.settings.labels
        )
    else:
        student = models.load(
            material.source,
            material.auto_model,
            task.settings.labels,
            where=recipe.where("model"),
            field="model",
            reads=task.reads,
            multi_label=task.settings.multi_label,
            new_head=material.new_head and task.choices == "labels",
        )
    if isinstance(recipe.model, StudentFrom):
        student = surgery.cut_layers(
            student, material.auto_model, recipe.model.layers, recipe.where("model"), "model.layers"
        )
    if count := recipe.training.regularizers.new_top_layers:
        student = new_top_layers(student, material.auto_model, count, recipe.seed)
    return student


def build(
    material: Material, display: Display | None = None, origin: Origin | None = None, precision: str | None = None
) -> Job:
    """Loads the student and the reference, and lays out the plan. Raises UserError where they do not fit.

    Where the teacher writes targets or fills a cache, it does so here, ahead of training; `display` shows it.
    `origin`, `precision`: what an earlier start of a run decided, in the place of `reference.from` and of `auto`.
    """
    recipe, task, display = material.recipe, material.task, display or Display(quiet=True)
    base = basis(material, display, precision)
    measured = held_out(material)
    second: Beside | None = None
    if material.old is None:
        reference, chosen = _chosen(material, base, [*base.plan.held(), *measured], origin, display)
    else:
        if world_size() > 1:
            found, expected = "several processes", "one: the second head is no part of what they share"
            place = recipe.where("objective")
            raise UserError(Problem(place, "objective.anchor_head", found, expected, "start with one process"))
        second, reference = beside.make(material, base.student, base.autocast, base.device)
        chosen = Origin(reference.kind, f"its head: {recipe.objective.anchor_head}")
    model = base.student.model
    if lora := recipe.training.lora:
        model = surgery.add_adapter(
            model,
            rank=lora.rank,
            alpha=lora.alpha or 2 * lora.rank,
            dropout=lora.dropout,
            modules=lora.target_modules,
            train_head=task.choices != "tokens",
        )
    if chosen.kind == ADAPTER_OFF:
        _trained_head(base.student, recipe.where("method"))
        reference = AdapterOff(model, task.rows, base.autocast, task.forward)
    if recipe.training.regularizers.freeze_embeddings:
        base.student = replace(base.student, notes=(*base.student.notes, frozen_embeddings(model)))
    half = None if material.source == NEW else models.half_precision(material.source, material.config)
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
        base.live,
        measured,
        second,
    )


def held_out(material: Material) -> list[Example]:
    """The rows on which a budget of divergence is measured, as the reference reads them: none is trained on."""
    recipe, rule = material.recipe, material.recipe.weight_spec()
    if isinstance(rule, float | int) or rule.max_kl is None:
        return []
    splits = {"validation": recipe.holds_target, "source_validation": recipe.holds_source}
    if recipe.holds_generated:
        drawn = [example for row in material.encoded["generated_validation"] for example in row]
        return [replace(drawn[i], anchored=True) for i in subset(len(drawn), MEASURED)]
    rows = [row for split, held in splits.items() if held for row in material.rows[split]]
    chosen = [rows[i] for i in subset(len(rows), MEASURED)]
    if material.old is not None:
        encoded = [
            beside.unlabelled(material.old, e)
            for row in chosen
            for e in material.task.encode_scored(row, labelled=False)
        ]
        return [replace(example, anchored=True) for example in encoded]
    encoded = [e for row in chosen for e in material.task.encode_for_all(row, scored=True)]
    return [replace(example, anchored=True) for example in encoded]


def _chosen(
    material: Material, base: Basis, examples: Sequence[Example], decided: Origin | None, display: Display
) -> tuple[Reference | None, Origin]:
    """The reference, from where the recipe says, or from where it costs least and changes nothing."""
    spec = material.recipe.reference_spec()
    if spec is None or material.recipe.only_writes():
        return None, Origin()
    asked, reason = (decided.kind, decided.reason) if decided is not None else (spec.origin, None)
    switchable = material.recipe.training.lora is not None and material.from_model and spec.temperature is None
    if asked == ADAPTER_OFF:
        base.live.drop()
        return None, Origin(ADAPTER_OFF, reason)
    unfit = cache.fits(material, examples) if examples else "nothing is held near it"
    if unfit is not None and asked in ("cached", "served"):
        raise unkept(material, unfit)
    if asked in ("auto", "cached", "served") and unfit is None:
        want = store = None
        if asked != "auto" or cache_identity.place(material).is_dir():  # else nothing is hashed that no one may need
            want = cache_identity.wanted(material, base.precision, examples)
            store = cache.found(want)
        pays = asked != "auto" or store is not None
        if not pays and not switchable and world_size() == 1:
            passes, every = material.steps * base.plan.held_per_step, cache_identity.ordered(examples)
            pays, reason = cache.worth(material, every, base.live(), base.device, passes)
        if pays:
            if store is None:
                want = want or cache_identity.wanted(material, base.precision, examples)
                store = cache.capture(want, material, base.live(), base.device, display)
            base.live.drop()
            kept = cache.opened(store, material, base.device, base.autocast)
            return kept, Origin(kept.kind, reason, cache.facts(store))
    if switchable and asked == "auto":
        base.live.drop()  # a copy that drew texts, perhaps
        return None, Origin(ADAPTER_OFF, reason)
    reference = base.live()
    return reference, Origin(reference.kind, reason or unfit)


def unkept(material: Material, reason: str) -> UserError:
    """Why no cache can stand for this recipe's reference."""
    place, mend = material.recipe.where("reference"), "write from: online"
    return UserError(Problem(place, "reference.from", reason, "answers that stay the same from epoch to epoch", mend))


def _matching(
    material: Material,
    student: Any,
    reference: Reference | None,
    autocast: Callable[[], AbstractContextManager[Any]],
    device: str,
) -> Matching | None:
    """The recipe's terms beside D, their projections added to the student (which they leave before it is saved)."""
    recipe, task = material.recipe, material.task
    terms = {registry.find("matching", name)(): weight for name, weight in recipe.objective.matching.items()}
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
    batch = asking(terms, to_device(task.collate(material.main_stream[:PROBED]), device))
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
            if not matching.distributed(noisy):
                raise refuse("a student whose attention dropout cannot be switched off", "weights that sum to 1")
    matching.attach(student)
    return matching


def _reference(
    material: Material, student: models.Loaded, autocast: Callable[[], AbstractContextManager[Any]], device: str
) -> Reference | None:
    recipe, task = material.recipe, material.task
    spec = recipe.reference_spec()
    if spec is None:
        return None
    if spec.origin == "served":
        assert isinstance(spec.model, str) and spec.url is not None
        choices = cache_identity.choices_of(material)
        tokenizer = task.tokenizer
        return Served(
            spec.url,
            spec.model,
            min(spec.k, choices),
            vocabulary=choices,
            spell=lambda i: str(tokenizer.decode([i], clean_up_tokenization_spaces=False)),
            allow_host=spec.allow_host or "",
        )
    if material.from_model:
        _trained_head(student, recipe.where("method"))
        own, (temperature,) = copy.deepcopy(student.model).to(device), spec.temperatures(1)
        return Model(own, task.rows, autocast, forward=task.forward, temperature=temperature)
    members = []
    for files, temperature in zip(material.references, spec.temperatures(len(material.references)), strict=True):
        loaded = models.load(
            files.source,
            files.auto_model,
            files.names,
            where=recipe.where("reference"),
            field="reference",
            reads=task.reads,
            multi_label=task.settings.multi_label,
        )
        _trained_head(loaded, recipe.where("reference"))
        reader = files.reader or task
        if files.reader is not None:
            reader.processor = loaded.processor
        order = [files.names.index(name) for name in task.settings.labels]
        to_rows = _on_shared(_in_order(reader, order), files.shared, device)
        forward = reader.forward
        members.append(Model(loaded.model.to(device), to_rows, autocast, files.companion, forward, temperature))
    return members[0] if len(members) == 1 else Ensemble(members, spec.weight)


def _in_order(task: Task, order: list[int]) -> ToRows:
    """The task's `rows`, for a model that lists the labels in another order."""
    if order == sorted(order):
        return task.rows
    return lambda outputs, batch: task.rows(outputs, batch, order)


def _on_shared(to_rows: ToRows, ids: Sequence[int] | None, device: str) -> ToRows:
    """`to_rows` of a reference that is compared with the student on these token ids alone."""
    if ids is None:
        return to_rows
    kept = cache.kept_choices(ids, device)
    assert kept is not None
    return lambda outputs, batch: Shared(to_rows(outputs, batch), kept)


def _trained_head(loaded: models.Loaded, where: str) -> None:
    if loaded.fresh:
        raise UserError(no_trained_head(loaded.source, loaded.fresh, where))


def objective(recipe: Recipe) -> Objective:
    spec = recipe.objective
    name, parameters = spec.divergence_name, spec.divergence_parameters
    divergence = named(name, **parameters) if parameters else name
    weight = recipe.weight_spec()
    if isinstance(weight, int | float):
        return Objective(divergence, float(weight), spec.temperature)
    if weight.confidence is not None:
        return Objective(divergence, confidence_weight(weight.confidence, name), spec.temperature, per_label=True)
    return Objective(divergence, FIRST_WEIGHT, spec.temperature)  # a budget changes it while it trains


def collated(job: Job, examples: Sequence[Example]) -> dict[str, Any]:
    """Some examples as training meets them."""
    return _collate(job.material.task, job.material.old, examples)


def _collate(task: Task, old: Task | None, examples: Sequence[Example]) -> dict[str, Any]:
    """A micro-batch, with the rows that carry D as the reference reads them where that is not the batch itself."""
    if old is None:
        return task.collate_held(examples)
    held = beside.collate(old, examples)
    return task.collate(examples) | ({} if held is None else {"held": held})


def _together(examples: Sequence[Example]) -> dict[str, Any]:
    """A micro-batch of which some texts are still to be drawn: the trainer collates when they are."""
    return {"examples": list(examples)}


def _plan(material: Material) -> Plan:
    recipe = material.recipe
    step_size = material.batch_size * material.cuts
    examples = material.examples
    soft = recipe.data.unlabeled_as == "distribution"  # else, at weight 0, the reference has said all that it will
    anchored = recipe.reference_spec() is not None and not recipe.only_writes()
    anchored = anchored and (soft or recipe.weight_spec() != 0)
    held = {"train": anchored and recipe.holds_target, "source_train": False}
    held |= dict.fromkeys(("source_unlabeled", "generated"), anchored)

    def of(split: str) -> list[Example]:
        return [replace(example, anchored=held.get(split, soft)) for example in examples[split]]

    main = of("train") or of("unlabeled")
    streams = [
        Stream(split.replace("_", "-"), of(split), share * step_size) for split, share in material.beside.items()
    ]
    collate: Callable[[Sequence[Example]], dict[str, Any]] = partial(_collate, material.task, material.old)
    if share := recipe.generation.on_policy:
        asked = [e for row in material.rows["unlabeled"] or material.rows["train"] for e in
                 material.task.encode_scored(row, labelled=False)]  # fmt: skip
        drawn = [replace(e, anchored=True, notes={**e.notes, DRAWN: True}) for e in asked]
        streams.append(Stream("on-policy", drawn, share * step_size))
        collate = _together
    return Plan(
        main,
        streams,
        batch_size=material.batch_size,
        cuts=material.cuts,
        seed=recipe.seed,
        collate=collate,
        whole=not material.task.separable,
    )
