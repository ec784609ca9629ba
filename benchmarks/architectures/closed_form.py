"""The loss and its gradient once more, from the textbook: float64, one row at a time, no padding, no hook, no slice.

    L = Σ −log P(y|x;θ) / n_CE  +  weight · Σ Σ_c p_c (log p_c − log q_c) / n_D

Of keeltune it has what a row is made of (token ids, which positions are asked, the right answers); the forward pass is
the model's own, the rest is written out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import ctc_loss, log_softmax

from keeltune.objective.predictions import IGNORED
from keeltune.tasks.common.example import Example
from keeltune.tasks.task import Task


def loss_and_gradient(
    task: Task, student: Any, teacher: Any, examples: Sequence[Example], weight: float
) -> tuple[float, float, Tensor]:
    """(mean CE, mean D, the gradient of L as one vector) of a step of these examples, of float64 logarithms."""
    cross_entropy = divergence = torch.zeros((), dtype=torch.float64)
    labelled = anchored = 0
    student.zero_grad()
    for example in examples:
        inputs = alone(task, example, student.dtype)
        p = log_probs(task, student(**inputs), example)
        with torch.no_grad():
            q = log_probs(task, teacher(**inputs), example)
        cross_entropy = cross_entropy + surprise(task, p, example)
        possible = p > -torch.inf
        divergence = divergence + (p[possible].exp() * (p[possible] - q[possible])).sum()
        labelled += sum(t != IGNORED for t in example.targets)
        anchored += len(p)
    loss = cross_entropy / labelled + weight * divergence / anchored
    loss.backward()
    return float(cross_entropy) / labelled, float(divergence) / anchored, flat(student)


def flat(model: Any) -> Tensor:
    return torch.cat([w.grad.flatten() if w.grad is not None else torch.zeros(w.numel(), dtype=w.dtype)
                      for w in model.parameters() if w.requires_grad])  # fmt: skip


def alone(task: Task, example: Example, dtype: torch.dtype) -> dict[str, Tensor]:
    """One row as the model reads it, with nothing beside it."""
    if task.reads == "text":
        return {name: torch.tensor([list(value)]) for name, value in example.inputs.items()}
    inputs = task.pad([example.inputs])
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in inputs.items()}


def log_probs(task: Task, outputs: Any, example: Example) -> Tensor:
    """log P of the row's predictions, [N, C]."""
    if task.choices == "positions":
        chosen = torch.tensor([True, *(b > a for a, b in zip(example.notes["starts"][1:], example.notes["ends"][1:],
                                                             strict=True))])  # fmt: skip
        both = torch.stack([outputs.start_logits[0], outputs.end_logits[0]])
        return log_softmax(both.double().masked_fill(~chosen, -torch.inf), -1)
    logits = outputs.logits[0]
    if example.predicted:
        marks = torch.tensor(list(example.predicted))
        before = logits.shape[0] - len(marks)
        if task.settings.auto_model == "AutoModelForCTC":
            logits = logits[: len(marks)][marks]
        else:  # a picture's positions lie before the text's
            logits = logits[before:][marks]
    else:
        logits = logits[None]
    return log_softmax(logits.double(), -1)


def surprise(task: Task, p: Tensor, example: Example) -> Tensor:
    """Σ −log P(y|x) of the row."""
    targets = torch.tensor([t for t in example.targets if t != IGNORED])
    if task.settings.auto_model == "AutoModelForCTC":
        blank = task.tokenizer.pad_token_id
        lengths = torch.tensor([len(p)]), torch.tensor([len(targets)])
        return ctc_loss(p[:, None], targets[None], *lengths, blank=blank, reduction="sum")
    asked = torch.tensor([t != IGNORED for t in example.targets])
    return -p[asked].gather(1, targets[:, None]).sum()
