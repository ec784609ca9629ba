"""What a recipe's training needs on other machines, for `keeltune check --plan`."""

from __future__ import annotations

from rich.table import Table

from keeltune.runs.disk_estimate import bytes_of_checkpoint
from keeltune.training.accelerators import Accelerator
from keeltune.training.cluster_plan import (
    UTILISATION,
    Need,
    Work,
    cache_bytes,
    needs,
    seconds_of_step,
    work,
)
from keeltune.training.preparation.material import Material
from keeltune.training.student_skeleton import student_skeleton
from keeltune.utils.terminal import Terminal

DISK = 2e9
"""Bytes a second that the disk of a machine takes: one NVMe drive."""

USABLE = 0.92
"""The share of an accelerator's memory that tensors may take: its driver and its communication have the rest."""


def print_plan(material: Material, count: int, accelerator: Accelerator, console: Terminal) -> None:
    """Memory, time, caches and checkpoints of a training on so many accelerators; loads no weight."""
    found, done = needs(material, student_skeleton(material), count), work(material, student_skeleton(material), count)
    console.print(
        f"plan: {count} x {accelerator.name}, {accelerator.memory / 1e9:.0f} GB and "
        f"{accelerator.peak / 1e12:.0f} TFLOP/s in bf16 each, of which {UTILISATION:.0%} are reached; AdamW, float32 "
        "weights under bf16 autocast"
    )
    referred = any(need.reference for need in found)
    console.print(_memory(found, accelerator, referred))
    console.print(_speed(found, done, material, count, accelerator, referred))
    for name, number in cache_bytes(material).items():
        console.print(f"cache of the reference's answers, {name}: {number / 1e9:.3g} GB")
    size = bytes_of_checkpoint(material, student_skeleton(material))
    console.print(f"checkpoint: {size / 1e9:.3g} GB, {size / DISK:.3g} s at {DISK / 1e9:.0f} GB/s")


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:.3g}"


def _memory(found: list[Need], accelerator: Accelerator, referred: bool) -> Table:
    beside = ("reference", "total, online") if referred else ()
    table = Table("GB a GPU", "checkpointing", "weights", "gradients", "moments", "activations", *beside, "total")
    for need in found:
        online = (_gigabytes(need.reference), _fitting(need.total(), accelerator)) if referred else ()
        parts = map(_gigabytes, (need.weights, need.gradients, need.moments, need.activations))
        total = _fitting(need.total(online=False), accelerator)
        table.add_row(need.way, "yes" if need.checkpointed else "no", *parts, *online, total)
    return table


def _fitting(total: float, accelerator: Accelerator) -> str:
    return _gigabytes(total) + ("" if total <= USABLE * accelerator.memory else " (too much)")


def _speed(
    found: list[Need], done: Work, material: Material, count: int, accelerator: Accelerator, referred: bool
) -> Table:
    online = ("reference online",) if referred else ()
    table = Table("steps an hour", "checkpointing", "rows a step", *online, "reference cached" if referred else "alone")
    for need in found:
        rows = material.batch_size * material.recipe.training.gradient_accumulation_steps
        rows *= 1 if need.way == "one process" else count
        speeds = [
            f"{3600 / seconds_of_step(done, material, accelerator, need.way, (need.checkpointed, online)):.3g}"
            for online in ((True, False) if referred else (False,))
        ]
        table.add_row(need.way, "yes" if need.checkpointed else "no", str(rows), *speeds)
    return table
