"""What a cache costs on disk and in seconds, and whether it is worth it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from keeltune.objective.references.reference import Reference
from keeltune.objective.stored_predictions import Full, StoredForm
from keeltune.tasks.common.batches import to_device
from keeltune.tasks.common.example import NOTE_SAMPLE, Example
from keeltune.training.cache.capture import BATCH, SAMPLE, bytes_of, free_bytes, hidden_form, spread
from keeltune.training.cache.identity import EXACT, choices_of, place
from keeltune.training.preparation.compatibility import NEW
from keeltune.training.preparation.material import Material
from keeltune.utils import files

WORTH = 5.0
"""Seconds that a cache must save to be worth its files."""


# --------------------------------------------------------------------------------------------------------- is it worth


def worth(
    material: Material, every: Sequence[Example], reference: Reference, device: str, passes: float
) -> tuple[bool, str]:
    """Whether a cache saves time, measured here: `passes` forward passes of an example online, or one and reading.

    `every`: all examples, each once, the shortest first. Only exact forms count, so that the choice never changes what
    is trained.
    """
    task, examples, folder = material.task, spread(every, SAMPLE), place(material)
    start = time.perf_counter()
    for first in range(0, len(examples), BATCH):
        reference.rows(to_device(task.collate(examples[first : first + BATCH]), device))
    each = (time.perf_counter() - start) / len(examples)
    saved = (passes - len(every)) * each
    if saved < WORTH:
        return False, f"online: a cache would save {max(0.0, saved):.0f} s of forward passes"
    choices = choices_of(material)
    form: StoredForm | None = Full() if choices <= EXACT else hidden_form(examples, task, reference, device, None)[0]
    if form is None:
        return False, "online: no exact form fits its head, and from: auto keeps no other"
    total = bytes_of(task, form, every, choices)
    free = free_bytes(folder)
    if total > free / 2:
        return False, f"online: a cache would take {total / 2**30:.1f} GiB of {free / 2**30:.1f} GiB free"
    moved = total * (1 + passes / len(every)) * seconds_a_byte(folder)
    said = (
        f"{passes:.0f} answers online take about {passes * each:.0f} s; a cache {len(every) * each:.0f} s once "
        f"and {moved:.1f} s for {total / 2**20:.0f} MiB"
    )
    return (True, f"cached: {said}") if moved < 0.9 * saved else (False, f"online: {said}")


def seconds_a_byte(folder: Path) -> float:
    """How long a byte takes to be written, synced and read, measured with 4 MiB where the cache will lie."""
    there = next(p for p in (folder, *folder.parents) if p.exists())
    file, content = there / f".staging-{os.getpid()}-speed", b"\0" * 2**22
    start = time.perf_counter()
    try:
        files.write_atomically(file, content)
        file.read_bytes()
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)
    return (time.perf_counter() - start) / len(content)


def fits(material: Material, examples: Iterable[Example]) -> str | None:
    """Why the reference's answers cannot be cached at all; None where they can."""
    if any(NOTE_SAMPLE in example.notes for example in examples):
        return "texts that the student draws are other ones in every step"
    if material.recipe.objective.matching:
        return "matching compares the layers of both models"
    if material.source == NEW and material.reference_is_start:
        return "a new model"
    spec, task = material.recipe.reference_spec(), material.task
    if spec is not None and spec.origin == "served" and not (task.reads_prompt and task.reads == "text"):
        return "a server answers to a decoder's text alone"
    return None
