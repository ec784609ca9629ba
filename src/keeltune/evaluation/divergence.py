"""How far a model is from a reference, in nats a prediction, on rows that are not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from keeltune.objective.formula import Objective
from keeltune.objective.predictions import Rows
from keeltune.objective.references.reference import Reference
from keeltune.tasks.common.batches import by_length, to_device
from keeltune.tasks.common.example import Example
from keeltune.tasks.task import Task
from keeltune.utils.device import in_eval_mode
from keeltune.utils.stop_signals import raise_if_asked

BATCH = 64


def divergence(
    task: Task,
    objectives: Sequence[Objective],
    model: Any,
    reference: Reference,
    examples: Sequence[Example],
    *,
    device: str = "cpu",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[list[float], int]:
    """T² · Σ D(model ‖ reference) / N over all predictions of the examples, by each objective, and N; one forward pass
    of each model for all of them, in eval mode, restored afterwards."""

    def answers(batch: Mapping[str, Any]) -> Rows:
        with autocast():
            return task.rows(task.forward(model, batch), batch)

    with in_eval_mode(model):
        return between(task, objectives, answers, reference, examples, device=device)


@torch.inference_mode()
def between(
    task: Task,
    objectives: Sequence[Objective],
    answers: Callable[[Mapping[str, Any]], Rows],
    reference: Reference,
    examples: Sequence[Example],
    *,
    device: str = "cpu",
) -> tuple[list[float], int]:
    """The same, with the distributions that `answers` gives for a batch: of a model, or of another reference."""
    totals, predictions = [0.0] * len(objectives), 0
    for indices in by_length(examples, BATCH):
        raise_if_asked()
        batch = to_device(task.collate([replace(examples[i], anchored=True) for i in indices]), device)
        rows = answers(batch)
        if len(rows):
            held = reference.rows(batch)
            totals = [t + float(o.total(rows, held)) for t, o in zip(totals, objectives, strict=True)]
            predictions += len(rows)
    return [total / max(1, predictions) for total in totals], predictions
