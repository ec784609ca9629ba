"""Three facts about the objective, the task and the reference that must hold before the first step."""

from __future__ import annotations

import math
from typing import Any

import torch

from keeltune.objective.formula import Counts, Objective
from keeltune.objective.predictions import Dense, Rows
from keeltune.objective.references.reference import Reference
from keeltune.tasks.task import Task
from keeltune.utils.device import in_eval_mode

SELF_TEST_ROWS = 4

SELF_TEST_NUMBERS = 2**20
"""Of [N, C] in the self-test, which holds several copies in float64: a few predictions of a large vocabulary."""


@torch.no_grad()
def self_test(model: Any, task: Task, objective: Objective, reference: Reference | None, batch: dict[str, Any]) -> None:
    """Three facts that must hold before the first step; eval mode, no gradient, the random state untouched.

    1. reference := student gives |D| ≤ 1e-6. 2. reference := uniform gives the divergence's own value (reverse KL:
    log C − H(student)); it and a tilted one, as a new head is all but uniform, move the loss by weight × their
    divergence. 3. The counts are those of the encoded rows, and the reference gives as many predictions as the student.
    """
    held, speaks = batch.get("anchored_batch", batch), bool(batch["anchored"].any())
    batch = {**batch, "anchored": torch.ones_like(batch["anchored"])}
    with in_eval_mode(model):
        student = task.rows(task.forward(model, batch), batch)
    n = len(student)
    labelled, anchored = task.counts(batch)
    _hold("labelled predictions", labelled, batch["encoded"][0])
    _hold("anchored predictions", anchored, batch["encoded"][1])
    _hold("predictions of the student", n, batch["encoded"][1])
    if reference is None or n == 0:
        return
    if speaks:
        _hold("predictions of the reference", len(reference.rows(held)), held["encoded"][1])
    sliced = task.sliced_cross_entropy(batch)  # as training hands it over
    cross_entropy = task.cross_entropy(student, batch) if sliced is None else sliced
    student = Dense(student.log_probs(slice(0, max(1, SELF_TEST_NUMBERS // student.choices))))
    n = len(student)
    frozen = student.log_probs(slice(None), objective.temperature)
    itself = objective.total(student, _same(student)).item() / n
    _hold("divergence of the student from itself", itself, 0.0)

    uniform = torch.full_like(frozen, -math.log(frozen.shape[-1])).masked_fill(frozen == -torch.inf, -torch.inf)
    entropy = -(frozen.exp() * frozen).nan_to_num(0.0).sum(-1)
    away = objective.total(student, Dense(uniform)).item() / n
    by_hand = objective.function(frozen.double(), uniform.double().log_softmax(-1)).mean().item()
    if objective.divergence == "reverse-kl":
        by_hand = ((frozen > -torch.inf).sum(-1).log() - entropy).mean().item()
    _hold("divergence of the student from uniform", away, by_hand * objective.temperature**2)
    counts = Counts(max(labelled, 1.0), float(n))
    plain = objective(cross_entropy, student, None, counts=counts).loss
    share = min(1.0, n / max(labelled, 1.0)) if objective.per_label else 1.0
    tilt = torch.linspace(0, 4, frozen.shape[-1], dtype=frozen.dtype, device=frozen.device)
    for other in (uniform, (uniform + tilt).log_softmax(-1)):
        away = objective.total(student, Dense(other)).item() / n
        moved = objective(cross_entropy, student, Dense(other), batch["anchored"][:n], counts=counts).loss
        rounding = 1e-6 * max(1.0, abs(plain.item()))  # of the difference of two losses
        _hold("loss moved by the divergence", (moved - plain).item(), objective.weight * share * away, rounding)


def _same(student: Rows) -> Rows:
    return Dense(student.log_probs(slice(None)))


def _hold(what: str, found: float, expected: float, tolerance: float = 1e-6) -> None:
    if not math.isclose(found, expected, rel_tol=1e-4, abs_tol=tolerance):
        raise AssertionError(f"self-test: {what} is {found}, expected {expected}")
