"""The most bytes that a training will hold, told before it starts and without loading a weight.

    what the process holds by now, and what training adds to it
    + weights, the reference's weights
    + the larger of
        while it trains    the optimizer's moments, averages of weights, and the larger of
                             a step: activations, gradients, slices of the vocabulary      `rehearsal.step_bytes`
                             a scoring: a forward pass of 64 rows, or what writing keeps   `rehearsal.scoring_bytes`
        at its end         the weights before training, where the two domains are compared, and a scoring

Nothing here is fitted to measurements but `OF_TRAINING`; `benchmarks/memory_estimate.py` holds the whole against them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeltune.models import configuration, shapes
from keeltune.models.vocabulary import CTC
from keeltune.objective.formula import Objective
from keeltune.tasks.common.batches import rows_at_once
from keeltune.tasks.common.example import Example
from keeltune.training.early_stopping import evaluation_schedule
from keeltune.training.optimizer_state import moments_of
from keeltune.training.preparation.encoded_rows import belong_on_disk
from keeltune.training.preparation.material import SCORED, Material
from keeltune.training.reference_holding import held_in
from keeltune.training.regularization import forward_passes, regularizers_of
from keeltune.training.rehearsal import Inputs, scoring_bytes, step_bytes
from keeltune.training.student import frozen_dtype
from keeltune.training.student_skeleton import student_skeleton
from keeltune.utils.device import this_device

OF_TRAINING = 120 << 20
"""Bytes of the libraries that training imports and `check` does not: a tiny training holds 548 MiB, its check 430."""

ALLOCATOR = 1.2
"""What a step holds of a CPU's memory for each byte of its tensors: the heap keeps what was freed between tensors that
are alive, and convolutions copy what they read. Of 14 kinds of models measured 1.0 to 1.8 (docs/memory.md)."""

SAMPLED = 64
"""Examples of which the size in memory is measured."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of each part; `step` and `scoring` are never there at the same time, nor `moments` and `start`. `guessed`:
    the model's code does not run without numbers, and its activations are those of a plain transformer of its sizes."""

    process: float
    weights: float
    moments: float
    references: float
    averages: float
    data: float
    start: float
    step: float
    scoring: float
    guessed: bool = False

    @property
    def total(self) -> float:
        training = self.moments + self.averages + max(self.step, self.scoring)
        held = self.process + self.weights + self.references + self.data
        return held + max(training, self.start + self.scoring)


@dataclass(frozen=True)
class Held:
    """Bytes that are there throughout: weights, moments of the optimizer, weights of the reference, averages."""

    weights: float
    moments: float
    references: float
    averages: float


def held_bytes(material: Material, student: Any, references: Sequence[Any], precision: str) -> Held:
    """Those of a student and of its reference, both skeletons."""
    recipe = material.recipe
    trained = sum(w.numel() for w in student.parameters() if w.requires_grad)
    copies = sum(r.copies for r in regularizers_of(recipe)) + 2 * int(_averages(material))
    pairs = zip(references, held_in(material, precision), strict=False)
    return Held(
        weights=trained * 4 + (_numbers(student) - trained) * frozen_dtype(material, precision).itemsize,
        moments=4 * trained * moments_of(str(recipe.training.passed.get("optim", ""))),
        references=sum(_numbers(m) * dtype.itemsize for m, dtype in pairs if m is not student),
        averages=4.0 * trained * copies,
    )


def memory_estimate(material: Material, student: Any, precision: str) -> MemoryEstimate:
    """What a training of this material will hold at its most, in bytes: of the process, or of the GPU alone.

    `student`: its skeleton, of which only shapes are read.
    """
    on_cpu = this_device() == "cpu"
    whole, references = _numbers(student), reference_skeletons(material, student)
    held = held_bytes(material, student, references, precision)
    step, scoring, guessed = _rehearsed(material, student, references)
    compared = bool(material.rows["source"] or material.rows["source_validation"])
    if precision == "bf16":  # tensors of half the size, and autocast's copy of the weights
        step, scoring = step / 2 + 2 * whole, scoring / 2 + 2 * whole
    if on_cpu:
        step, scoring = step * ALLOCATOR, scoring * ALLOCATOR
    return MemoryEstimate(
        process=(_resident() + OF_TRAINING) * on_cpu,
        weights=held.weights,
        moments=held.moments,
        references=held.references,
        averages=held.averages,
        start=8.0 * whole * compared,  # read twice: as the path's beginning, and as the model that was there
        data=_data_to_come(material) * on_cpu,
        step=step,
        scoring=scoring,
        guessed=guessed,
    )


def _averages(material: Material) -> bool:
    return evaluation_schedule(material).averages and bool(material.rows["validation"])


def _numbers(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters())


def reference_skeletons(material: Material, student: Any) -> list[Any]:
    """The reference's models without weights, each of its own size; the student where its adapter is taken off."""
    if material.reference_is_start:
        return [student if material.recipe.training.lora is not None else student_skeleton(material)]
    made = []
    for files in material.references:
        config = configuration.read_config(files.source, material.recipe.where("reference"), "reference")
        made.append(shapes.shape_of(config, files.auto_model))
    return made


def _resident() -> int:
    """Bytes of memory that this process holds."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * 4096
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _data_to_come(material: Material) -> float:
    """Bytes of the examples that training will encode and hold beyond those that lie here already."""
    total = 0.0
    for name, rows in material.encoded.items():
        if rows and material.scale(name) > 1 and not belong_on_disk(material.task, material.rows[name]):
            some = rows[:: max(1, len(rows) // SAMPLED)]
            total += (len(material.rows[name]) - len(rows)) * sum(map(_deep_size, some)) / len(some)
    return total


def _deep_size(value: Any) -> int:
    """Bytes of Python's objects below a value; those that Python shares (small numbers) count nothing."""
    if isinstance(value, Mapping):
        return sys.getsizeof(value) + sum(_deep_size(v) for v in value.values())
    if isinstance(value, list | tuple):
        return sys.getsizeof(value) + sum(map(_deep_size, value))
    if isinstance(value, Example):
        return sum(map(_deep_size, (value.inputs, value.targets, value.weights, value.predicted, value.notes)))
    return 0 if isinstance(value, bool) or (isinstance(value, int) and value < 257) else sys.getsizeof(value)


# ------------------------------------------------------------------------------------------------------ activations


def _rehearsed(material: Material, student: Any, references: Sequence[Any]) -> tuple[float, float, bool]:
    """Bytes of a step and of a scoring, and whether they had to be guessed."""
    recipe = material.recipe
    passes, repeats = forward_passes(regularizers_of(recipe)), any(r.repeats for r in regularizers_of(recipe))
    accumulates = repeats or recipe.training.gradient_accumulation_steps > 1
    inputs, predictions, asked = micro_batch(material, references)
    objective = Objective(recipe.objective.divergence_name)
    scored = [e for split in SCORED for e in material.examples[split]]
    scored += [e for test in material.named_tests for row in test.encoded for e in row]
    try:
        step = float(step_bytes(student, asked, inputs, predictions, objective, passes=passes, accumulates=accumulates))
        guessed = False
    except Exception:  # code of transformers that asks for a number, or of a model for what is not there
        step, guessed = _plain(material, student, inputs, passes), True
    if not scored:
        return step, 0.0, guessed
    together = rows_at_once(material.task.settings, material.task.generates, max(e.length for e in scored))
    inputs, predictions, _ = _batch(material, scored, min(together, len(scored)))
    try:
        scoring = float(scoring_bytes(student, inputs, predictions))
    except Exception:
        scoring = _plain(material, student, inputs, 1) / 4
    return step, max(scoring, _written(material, inputs)), guessed


def micro_batch(
    material: Material, references: Sequence[Any], *, middle: bool = False
) -> tuple[Inputs, int | None, list[tuple[Any, Inputs]]]:
    """The inputs of a micro-batch on the meta device, of the longest examples or those of the `middle` length; N, where
    a vocabulary head predicts; each reference with what it reads."""
    rows = round(material.batch_size * (1 + sum(material.stream_ratios.values())))
    streams = [e for name in ("train", *material.stream_ratios) for e in material.examples.get(name, [])]
    streams = streams or list(material.main_stream)
    if middle:
        mean = sum(e.length for e in streams) / len(streams)
        streams = sorted(streams, key=lambda e: abs(e.length - mean))[:rows]
    inputs, predictions, others = _batch(material, streams, rows)
    companions = [files.companion for files in material.references] or [None]
    asked = [(m, others.get(name or "", inputs)) for m, name in zip(references, companions, strict=False)]
    return inputs, predictions, asked


def _batch(material: Material, examples: Sequence[Example], rows: int) -> tuple[Inputs, int | None, dict[str, Inputs]]:
    """The inputs of the `rows` longest examples on the meta device, N where a vocabulary head predicts, and the inputs
    of references that read in an encoding of their own."""
    task = material.task
    longest = sorted(examples, key=lambda example: -example.length)[:rows]
    longest = [longest[i % len(longest)] for i in range(rows)]
    sound = task.reads != "text"  # or pictures: one is read, and stands for all
    batch = task.collate(longest[:1] if sound else longest)

    def without_numbers(inputs: Inputs) -> Inputs:
        there = {name: value.to("meta") for name, value in inputs.items()}
        return {n: v.expand(rows, *v.shape[1:]).clone() if sound and len(v) == 1 else v for n, v in there.items()}

    written = task.choices == "tokens" and "predicted" in batch
    others = {name: without_numbers(batch[name]["inputs"]) for name in task.companions if name in batch}
    predictions = sum(sum(e.predicted) for e in longest) if written else None
    return without_numbers(batch["inputs"]), predictions, others


def _plain(material: Material, student: Any, inputs: Inputs, passes: int) -> float:
    """A step's bytes of a plain transformer: 70 bytes a token, layer and width, and attention's tables."""
    text = material.config.get_text_config()
    depth, width = int(getattr(text, "num_hidden_layers", 1)), int(getattr(text, "hidden_size", 256))
    heads = int(getattr(text, "num_attention_heads", 1))
    rows, length = max((tuple(v.shape[:2]) for v in inputs.values() if v.dim() > 1), key=lambda shape: shape[1])
    kept = rows * length * depth * (70 * width + 16 * heads * length)
    return kept * passes + 4 * sum(w.numel() for w in student.parameters() if w.requires_grad)


def _written(material: Material, inputs: Inputs) -> float:
    """Bytes of what writing keeps of the tokens before: keys and values of each layer, for each beam."""
    task, text = material.task, material.config.get_text_config()
    if not task.generates or material.auto_model == CTC:
        return 0.0
    beams, new = material.recipe.generation.beams, task.settings.max_new_tokens
    rows, read = max((tuple(v.shape[:2]) for v in inputs.values() if v.dim() > 1), key=lambda shape: shape[1])
    read = max(read, int(getattr(text, "max_source_positions", 0)))
    layers = int(getattr(text, "decoder_layers", None) or getattr(text, "num_hidden_layers", 1) or 1)
    heads = int(getattr(text, "num_attention_heads", 1))
    width = int(getattr(text, "hidden_size", 256)) * int(getattr(text, "num_key_value_heads", heads) or heads) // heads
    return 4.0 * rows * beams * (2 * layers * width * (read + new) + 3 * int(getattr(text, "vocab_size", 0)))
