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
from keeltune.training.cache.form_choice import SAMPLE, hidden_form
from keeltune.training.cache.identity import EXACT, cache_folder, choices_of
from keeltune.training.cache.shards import BATCH, AnswerSource, bytes_of, spread
from keeltune.training.preparation.head_compatibility import NEW
from keeltune.training.preparation.material import Material
from keeltune.utils import files
from keeltune.utils.disk_space import free_bytes

WORTH = 5.0
"""Seconds that a cache must save to be worth its files."""

MEASURED = 5.0
"""Seconds after which a reference is measured well enough: a Whisper reads thirty seconds of sound in every row."""


def worth(
    material: Material, examples: Sequence[Example], reference: Reference, device: str, passes: float
) -> tuple[bool, str]:
    """Whether a cache saves time, measured here: `passes` forward passes of an example online, or one and reading.

    `examples`: all, each once, the shortest first. Only exact forms count, so that the choice never changes what
    is trained.
    """
    task, sample, folder = material.task, spread(examples, SAMPLE), cache_folder(material)
    seconds = _seconds_each(material, sample, reference, device)
    saved = (passes - len(examples)) * seconds
    if saved < WORTH:
        return False, f"online: a cache would save {max(0.0, saved):.0f} s of forward passes"
    source = AnswerSource(task, reference, choices_of(material), device)
    form: StoredForm | None = Full() if source.choices <= EXACT else hidden_form(sample, source, None)[0]
    if form is None:
        return False, "online: no exact form fits its head, and from: auto keeps no other"
    total = bytes_of(task, form, examples, source.choices)
    free = free_bytes(folder)
    if total > free / 2:
        return False, f"online: a cache would take {total / 2**30:.1f} GiB of {free / 2**30:.1f} GiB free"
    disk = total * (1 + passes / len(examples)) * seconds_a_byte(folder)
    measured = (
        f"{passes:.0f} answers online take about {passes * seconds:.0f} s; a cache {len(examples) * seconds:.0f} s "
        f"once and {disk:.1f} s for {total / 2**20:.0f} MiB"
    )
    return (True, f"cached: {measured}") if disk < 0.9 * saved else (False, f"online: {measured}")


def _seconds_each(material: Material, sample: Sequence[Example], reference: Reference, device: str) -> float:
    """How long an example takes the reference: batch by batch, those of middle length first, until it is known."""
    batches = [sample[first : first + BATCH] for first in range(0, len(sample), BATCH)]
    middle, measured, start = len(batches) // 2, 0, time.perf_counter()
    for batch in batches[middle:] + batches[:middle]:
        reference.rows(to_device(material.task.collate(batch), device))
        measured += len(batch)
        if time.perf_counter() - start > MEASURED:
            break
    return (time.perf_counter() - start) / measured


def seconds_a_byte(folder: Path) -> float:
    """How long a byte takes to be written, synced and read, measured with 4 MiB where the cache will lie."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    file, content = existing / f".staging-{os.getpid()}-speed", b"\0" * 2**22
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
    if spec is not None and "server" in spec.needs and not (task.reads_prompt and task.reads == "text"):
        return "a server answers to a decoder's text alone"
    return None
