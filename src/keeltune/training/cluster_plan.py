"""What a training would need on other machines, told from configurations alone: no weight is at hand.

Bytes and operations are those of `rehearsal.py`, where the models' own code runs without numbers; how they are spread
over w processes is said here. Of a student of which P numbers train, by `precision: bf16` (float32 weights, bfloat16
under autocast, which keeps a copy of the weights that it read), AdamW:

    one process   weights 4 P, gradients 4 P, moments 8 P, copies 2 P, and the activations
    DDP           the same in each process, and 4 P more: the buckets in which gradients are sent
    FSDP2         a w-th of weights, gradients and moments; whole: what lies outside the layers, with its gradient,
                  and two layers; the copies of all that is read, or where activations are checkpointed of these alone

The reference's weights are held once a process, or a w-th of them; those of a cached one nowhere. A step's time is the
larger of its operations at `UTILISATION` of the peak and of what FSDP sends: weights twice (forward and backward pass)
and gradients once for each micro-batch, (w - 1) / w of 4 P each, at half the link, whose both ways are its figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from keeltune.objective.formula import Objective
from keeltune.objective.stored_predictions import Full, Hidden, StoredForm, TopK
from keeltune.tasks.common.stored_examples import anchored_in
from keeltune.training.accelerators import Accelerator
from keeltune.training.cache.form_choice import DTYPES
from keeltune.training.cache.identity import EXACT, choices_of
from keeltune.training.cache.shards import bytes_of
from keeltune.training.memory_estimate import held_bytes, micro_batch, reference_skeletons
from keeltune.training.preparation.material import Material
from keeltune.training.regularization import forward_passes, regularizers_of
from keeltune.training.rehearsal import step_bytes, step_operations
from keeltune.training.sharding import layers_of
from keeltune.training.streams import training_plan

UTILISATION = 0.4
"""The share of the peak that a step's products reach: what large decoders commonly do on such GPUs; small models, whose
kernels are short, reach far less."""

WAYS = ("one process", "DDP", "FSDP2")


@dataclass(frozen=True)
class Need:
    """Bytes that one process holds at its most, by what they are; `reference` is 0 where its answers are cached."""

    way: str
    checkpointed: bool
    weights: float
    gradients: float
    moments: float
    activations: float
    reference: float

    def total(self, *, online: bool = True) -> float:
        return self.weights + self.gradients + self.moments + self.activations + self.reference * online


@dataclass(frozen=True)
class Work:
    """Of a micro-batch of one process: operations, and bytes that FSDP sends to it and from it; with and without a
    reference online, by whether activations are checkpointed."""

    operations: Mapping[tuple[bool, bool], float]
    sent: float


def needs(material: Material, student: Any, processes: int) -> list[Need]:
    """Each way, without and with checkpointed activations. `student`: its skeleton, not to be used afterwards."""
    held = held_bytes(material, student, reference_skeletons(material, student), "bf16")
    trained, whole = _numbers(student, trains=True), _numbers(student)
    outside, layer = _units(student)
    activations = {on: _activations(material, student, checkpointed=on) for on in (False, True)}
    found = []
    for way in WAYS:
        share = processes if way == "FSDP2" else 1
        for checkpointed, kept in activations.items():
            weights = (held.weights + held.averages) / share
            gradients, copies = 4 * trained / share, 2 * whole
            if way == "DDP" and processes > 1:
                gradients *= 2
            if way == "FSDP2" and processes > 1:
                weights += 4 * (outside + 2 * layer)
                gradients += 4 * (outside + layer)
                copies = 2 * (outside + 2 * layer) if checkpointed else copies
            found.append(
                Need(way, checkpointed, weights + copies, gradients, held.moments / share, kept,
                     held.references / share)
            )  # fmt: skip
    return found


def work(material: Material, student: Any, processes: int) -> Work:
    """Of a micro-batch of examples of middle length. `student`: its skeleton, not to be used afterwards."""
    references = reference_skeletons(material, student)
    inputs, predictions, asked = micro_batch(material, references, middle=True)
    objective, passes = Objective(material.recipe.objective.divergence_name), _passes(material)
    how = {"passes": passes}
    alone = step_operations(student, [], inputs, predictions, objective, **how)
    beside = step_operations(student, asked, inputs, predictions, objective, **how) - alone if asked else 0.0
    _checkpoint(student)
    again = step_operations(student, [], inputs, predictions, objective, **how)
    found = {
        (False, False): alone, (False, True): alone + beside, (True, False): again, (True, True): again + beside
    }  # fmt: skip
    share = (processes - 1) / processes
    return Work(found, share * 4 * (2 * _numbers(student) + _numbers(student, trains=True)))


def seconds_of_step(
    done: Work, material: Material, accelerator: Accelerator, way: str, kind: tuple[bool, bool]
) -> float:
    """Of an optimizer step, whose micro-batches a process has one after the other; `kind`: checkpointed, online."""
    computed = done.operations[kind] / (UTILISATION * accelerator.peak)
    sent = done.sent / (accelerator.link / 2) if way == "FSDP2" else 0.0
    return material.recipe.training.gradient_accumulation_steps * max(computed, sent)


def cache_bytes(material: Material) -> dict[str, float]:
    """Bytes of the reference's answers to all rows on which it is asked, by the forms in which they may be kept."""
    spec, plan = material.recipe.reference_spec(), training_plan(material)
    examples = plan.anchored_examples()
    if spec is None or not len(examples):
        return {}
    choices = choices_of(material)
    scale = max(material.scale(name) for name in ("train", "unlabeled")) if anchored_in(plan.examples) else 1.0
    asked = DTYPES.get(spec.dtype)
    forms: dict[str, StoredForm] = {"full": Full(asked or DTYPES["float32"])}
    if choices > EXACT:
        teacher = reference_skeletons(material, None)[0]
        text = teacher.config.get_text_config(decoder=True)
        own = asked or DTYPES["bfloat16"]
        forms["hidden"] = Hidden(int(getattr(text, "hidden_size", 0) or text.d_model), own)
        forms["top-k"] = TopK(min(spec.k, choices), dtype=asked or DTYPES["float16"])
    return {name: scale * bytes_of(material.task, form, examples, choices) for name, form in forms.items()}


def _activations(material: Material, student: Any, *, checkpointed: bool) -> float:
    """Bytes of a micro-batch of the longest examples beside weights and gradients: what layers keep in bfloat16, what
    is made of a vocabulary's logits in float32, as losses are."""
    if checkpointed:
        _checkpoint(student)
    inputs, predictions, _ = micro_batch(material, [])
    objective, passes = Objective(material.recipe.objective.divergence_name), _passes(material)

    def beside(predictions: int | None) -> float:
        most = step_bytes(student, [], inputs, predictions, objective, passes=passes, accumulates=True)
        return max(0.0, most - 4 * _numbers(student, trains=True))

    whole = beside(predictions)
    layers = whole if predictions is None else min(whole, beside(1))
    return layers / 2 + (whole - layers)


def _passes(material: Material) -> int:
    return forward_passes(regularizers_of(material.recipe))


def _checkpoint(student: Any) -> None:
    """From now on its layers compute again in the backward pass what they do not keep."""
    getattr(student, "activation_checkpointing_enable", student.gradient_checkpointing_enable)()


def _numbers(model: nn.Module, *, trains: bool = False) -> int:
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad or not trains)


def _units(model: nn.Module) -> tuple[int, int]:
    """Numbers outside the model's layers, and those of its largest layer: the units that FSDP gathers."""
    layers = [_numbers(layer) for layer in layers_of(model)]
    return _numbers(model) - sum(layers), max(layers, default=0)
