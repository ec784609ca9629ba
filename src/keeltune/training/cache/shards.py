"""A cache's shards: consecutive examples in the order of capture, and the reference's answers to them as columns.

Batches are of fixed size and follow the order of capture, so that the stored numbers depend on the rows alone: never on
the order of the data, the seed, a recipe's batch size or the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keeltune.objective.derived_predictions import Shared
from keeltune.objective.predictions import Projected, Rows
from keeltune.objective.references.reference import Reference
from keeltune.objective.stored_predictions import StoredForm
from keeltune.tasks.common import lm_head
from keeltune.tasks.common.batches import to_device
from keeltune.tasks.common.example import Example
from keeltune.tasks.task import Task
from keeltune.utils import tensor_store

BATCH = 32
"""Examples of a forward pass of the capture: fixed, so that no recipe's batch size changes the stored numbers."""

SHARD_EXAMPLES, SHARDS, SHARD_BYTES = 256, 256, 2**27
"""Examples of a shard at least, shards at most (where their size allows it), and bytes of one."""


@dataclass(frozen=True)
class AnswerSource:
    """Whose answers are captured: a reference, evaluated through the student's task on a device, among C choices."""

    task: Task
    reference: Reference
    choices: int
    device: str


def widths_of(task: Task, examples: Sequence[Example], choices: int) -> list[int]:
    """Each example's own number of choices: its places, or C."""
    return [example.length if task.choices == "positions" else choices for example in examples]


def bytes_of(task: Task, form: StoredForm, examples: Sequence[Example], choices: int) -> float:
    widths = widths_of(task, examples, choices)
    return sum(e.predictions * form.bytes_each(w) for e, w in zip(examples, widths, strict=True))


def in_shards(examples: Sequence[Example], task: Task, form: StoredForm, choices: int) -> list[list[Example]]:
    """The examples in shards: consecutive, of so many examples and bytes at most."""
    most = max(SHARD_EXAMPLES, math.ceil(len(examples) / SHARDS))
    shards: list[list[Example]] = [[]]
    size = 0.0
    for example in examples:
        added = bytes_of(task, form, [example], choices)
        if shards[-1] and (len(shards[-1]) >= most or size + added > SHARD_BYTES):
            shards.append([])
            size = 0.0
        shards[-1].append(example)
        size += added
    return shards


def shard_of(
    examples: Sequence[Example],
    contents: Mapping[str, bytes],
    source: AnswerSource,
    form: StoredForm,
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A shard's columns and facts: the reference's answers to its examples, batch by batch in their order."""
    task, choices = source.task, source.choices
    columns: list[dict[str, Tensor]] = []
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        rows = answers(batch, source, form)
        columns.append(form.write(rows, [e.predictions for e in batch], widths_of(task, batch, choices)))
        advance(len(batch))
    tensors = {name: torch.cat([column[name] for column in columns]) for name in columns[0]}
    counts = [e.predictions for e in examples]
    facts: dict[str, Any] = {"examples": len(examples), "predictions": sum(counts)}
    if form.kind == "top-k":
        facts["mass"] = float((1 - tensors["tail"].double().exp()).sum())
    keys, digests = [e.key for e in examples], [contents[e.key] for e in examples]
    return {**tensor_store.key_columns(keys, digests, counts, widths_of(task, examples, choices)), **tensors}, facts


@torch.no_grad()
def answers(examples: Sequence[Example], source: AnswerSource, form: StoredForm) -> Rows:
    """The reference's predictions of some examples, in the order of the examples."""
    task, reference, device = source.task, source.reference, source.device
    if form.kind != "hidden":
        return reference.rows(to_device(task.collate(examples), device))
    alone = sum(e.predictions for e in examples) == 1  # one prediction shows no head that mixes positions
    with lm_head.sliced_from(0):
        rows = reference.rows(to_device(task.collate([*examples, *examples] if alone else examples), device))
    rows = rows.rows if isinstance(rows, Shared) else rows  # the head gives all choices; they are cut when it is read
    return Projected(rows.hidden[:1], rows.head, rows.choices) if alone and isinstance(rows, Projected) else rows


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """At most `count` of the examples, evenly from the shortest to the longest."""
    if len(examples) <= count:
        return list(examples)
    return [examples[round(i)] for i in np.linspace(0, len(examples) - 1, count)]
