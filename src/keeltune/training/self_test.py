"""Three facts about the objective, the task and the reference that must hold before the first step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from keeltune.objective.formula import Counts, Objective
from keeltune.objective.gaussian import Gaussian
from keeltune.objective.predictions import Dense, PerSlice
from keeltune.objective.references.reference import Reference
from keeltune.tasks.task import Task
from keeltune.utils.device import in_eval_mode

SELF_TEST_ROWS = 4

SELF_TEST_NUMBERS = 2**20
"""Of [N, C] in the self-test, which holds several copies in float64: a few predictions of a large vocabulary."""

UNIT_ROUNDOFF = 2.0**-24
"""u: a float32 result is the exact one times 1 + δ, |δ| ≤ u."""


@torch.no_grad()
def self_test(model: Any, task: Task, objective: Objective, reference: Reference | None, batch: dict[str, Any]) -> None:
    """Three facts that must hold before the first step; eval mode, no gradient, the random state untouched.

    1. reference := student gives |D| ≤ 1e-6. 2. reference := uniform gives the divergence's own value (reverse KL:
    log C − H(student)); it and a tilted one, as a new head is all but uniform, move the loss by weight × their
    divergence. 3. The counts are those of the encoded rows, and the reference gives as many predictions as the student.

    The student's log-probabilities are read once, as training reads them (float32), and must sum to 1 as well as
    float32 can hold it. All else is computed of these very numbers in float64, the objective's sums and the closed
    forms alike: over a large vocabulary two float32 sums differ by more than a divergence from uniform that is small.
    """
    anchored_batch, is_anchored = batch.get("anchored_batch", batch), bool(batch["anchored"].any())
    batch = {**batch, "anchored": torch.ones_like(batch["anchored"])}
    with in_eval_mode(model):
        student = task.rows(task.forward(model, batch), batch)
    n = len(student)
    labelled, anchored = task.counts(batch)
    _require("labelled predictions", labelled, batch["encoded"][0])
    _require("anchored predictions", anchored, batch["encoded"][1])
    _require("predictions of the student", n, batch["encoded"][1])
    if reference is None or n == 0:
        return
    if is_anchored:
        _require("predictions of the reference", len(reference.rows(anchored_batch)), anchored_batch["encoded"][1])
    sliced = task.sliced_cross_entropy(batch)  # as training hands it over
    cross_entropy = task.cross_entropy(student, batch) if sliced is None else sliced
    if isinstance(student, Gaussian):
        _require_numbers(objective, cross_entropy, student, Counts(max(labelled, 1.0), float(n)))
        return
    log_probs = student.log_probs(slice(0, max(1, SELF_TEST_NUMBERS // student.choices)))
    exact = log_probs.double()
    _require("divergence of the student from itself", _mean(objective, exact, exact), 0.0)
    log_mass = exact.logsumexp(-1)
    worst = log_mass[log_mass.abs().argmax()].item()
    _require("log of the sum of the student's probabilities", worst, 0.0, mass_rounding(exact.shape[-1]))
    uniform = _require_distance_from_uniform(objective, exact)
    counts = Counts(max(labelled, 1.0), float(len(exact)))
    _require_moved_loss(objective, cross_entropy, exact, uniform, counts)


def mass_rounding(choices: int) -> float:
    """How far log Σ P of C probabilities, whose logarithms are held in float32, may lie from 0.

    log P = (z − m) − log Σ exp(z − m). The C terms of the sum and its C − 1 additions, in whatever order the machine
    makes them, leave it a relative error of C·u at most (√C·u is common), which shifts all log P alike. Each difference
    rounds by u·|log P|, of which Σ P |log P| = H ≤ log C remains in the sum. The factor 2 is for what is of order u²
    and for exp and log themselves, which are accurate to a unit in the last place. Of the n predictions the worst is
    taken, and float64 rounds none of it: no mean adds to the bound.
    """
    return 2 * UNIT_ROUNDOFF * (choices + 2 * math.log(choices) + 2)


def _require_distance_from_uniform(objective: Objective, log_probs: Tensor) -> Tensor:
    """D of the student from uniform over the possible choices, against its closed form; returns the uniform [n, C]."""
    tempered = Dense(log_probs).log_probs(slice(None), objective.temperature)
    possible = tempered > -torch.inf
    uniform = torch.zeros_like(tempered).masked_fill(~possible, -torch.inf).log_softmax(-1)
    by_hand = objective.function(tempered, uniform).mean().item()
    if objective.divergence == "reverse-kl":
        entropy = -(tempered.exp() * tempered).nan_to_num(0.0).sum(-1)
        by_hand = (possible.sum(-1).double().log() - entropy).mean().item()
    distance = _mean(objective, log_probs, uniform)
    _require("divergence of the student from uniform", distance, by_hand * objective.temperature**2)
    return uniform


def _require_moved_loss(
    objective: Objective, cross_entropy: Tensor | PerSlice, log_probs: Tensor, uniform: Tensor, counts: Counts
) -> None:
    """References away from the student move the loss by weight × their divergence."""
    student, anchored = Dense(log_probs), torch.ones(len(log_probs), dtype=torch.bool, device=log_probs.device)
    plain = objective(cross_entropy, student, None, counts=counts).loss
    share = min(1.0, float(counts.divergence) / float(counts.cross_entropy)) if objective.per_label else 1.0
    tilt = torch.linspace(0, 4, uniform.shape[-1], dtype=uniform.dtype, device=uniform.device)
    for reference in (uniform, (uniform + tilt).log_softmax(-1)):
        loss = objective(cross_entropy, student, Dense(reference), anchored, counts=counts).loss
        expected = objective.weight * share * _mean(objective, log_probs, reference)
        rounding = 1e-6 * max(1.0, abs(plain.item()))  # of the difference of two losses, float32 where CE is
        _require("loss moved by the divergence", (loss - plain).item(), expected, rounding)


def _require_numbers(objective: Objective, cross_entropy: Tensor | PerSlice, student: Gaussian, counts: Counts) -> None:
    """The same of numbers: D from themselves is 0, and from a reference one standard deviation away ½ each, by which
    the loss moves."""
    exact = Gaussian(student.means.double())
    away, n = Gaussian(exact.means + 1.0), len(student)
    _require("divergence of the student from itself", objective.total(exact, exact).item() / n, 0.0)
    _require("divergence of the student from one away", objective.total(exact, away).item() / n, 0.5)
    plain = objective(cross_entropy, exact, None, counts=counts).loss
    share = min(1.0, float(counts.divergence) / float(counts.cross_entropy)) if objective.per_label else 1.0
    loss = objective(cross_entropy, exact, away, counts=counts).loss
    expected = objective.weight * share * 0.5
    _require("loss moved by the divergence", (loss - plain).item(), expected, 1e-6 * max(1.0, abs(plain.item())))


def _mean(objective: Objective, student: Tensor, reference: Tensor) -> float:
    """T² · mean D of log-probabilities [n, C]: what the objective's own sum comes to."""
    return objective.total(Dense(student), Dense(reference)).item() / len(student)


def _require(what: str, value: float, expected: float, tolerance: float = 1e-6) -> None:
    if not math.isclose(value, expected, rel_tol=1e-4, abs_tol=tolerance):
        raise AssertionError(f"self-test: {what} is {value}, expected {expected}")
