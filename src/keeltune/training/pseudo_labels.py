"""The reference's choices as labels, made ahead of training: the standing control of a distillation on a pool.

    data: {unlabeled_as: labels}

A pool helps in two ways: there are more texts, and there is what the teacher says of each choice. Hard labels keep the
first and drop the second, on the same batches; what a distillation gains beyond them is the soft answers' own.
Sources: Lee 2013, Pseudo-Label, ICML workshop; Xie et al. 2020, who compare both, https://arxiv.org/abs/1911.04252.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED
from keeltune.objective.references.reference import Reference
from keeltune.tasks.common.batches import answers as answers_of
from keeltune.tasks.common.batches import to_device
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.task import Task


@torch.inference_mode()
def labelled(
    task: Task,
    reference: Reference,
    rows: Sequence[Row],
    encoded: Sequence[Sequence[Example]],
    *,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> list[list[Example]]:
    """The rows' examples with the reference's answer as their label; for tasks that write, see `target_generation`.

    The answer is what prediction would say: the likeliest label, a yes above ½, the likeliest legal tags, the best span
    of all strides. `encoded` holds each row's examples without labels. A prediction that the reference does not make (a
    word that it cut off) stays without a label.
    """

    def predict(examples: Sequence[Example]) -> list[Prediction]:
        batch = to_device(task.collate(examples), device)
        return task.decode(reference.rows(batch), batch)

    answers = answers_of(task, encoded, predict, progress=progress)
    relabelled = [task.encode(task.labelled_by(row, answer)) for row, answer in zip(rows, answers, strict=True)]
    return [
        [_with_label(task, *pair) for pair in zip(examples, labelled_examples, strict=True)]
        for examples, labelled_examples in zip(encoded, relabelled, strict=True)
    ]


def _with_label(task: Task, example: Example, labelled_example: Example) -> Example:
    """`example` with the targets of the same row encoded with its new label."""
    targets = labelled_example.targets
    if task.companions:
        predicted = task.collate([replace(example, anchored=True)])["anchored"].tolist()
        targets = [target if p else IGNORED for target, p in zip(targets, predicted, strict=True)]
    return replace(example, targets=targets, weights=labelled_example.weights, notes=labelled_example.notes)
