"""How a training is measured while it runs, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from keeltune.training.budget import Budget
from keeltune.training.early_stopping import EvaluationSchedule


@dataclass(frozen=True)
class Monitoring:
    """What a trainer is handed beside the loss.

    validate   called at each evaluation; returns the task's metrics and `loss`; None: there is none
    schedule   when that is, and when it ends training
    best       the file that keeps the best weights, none of the rotated checkpoints; None: the last ones are taken
    budget     what moves the objective's weight, or None
    """

    validate: Callable[[], dict[str, float]] | None = None
    schedule: EvaluationSchedule = field(default_factory=EvaluationSchedule)
    best: Path | None = None
    budget: Budget | None = None
