"""How a training is measured while it runs, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keeltune.training.budget import Budget
from keeltune.training.early_stopping import EvaluationSchedule


@dataclass(frozen=True)
class Monitoring:
    """What a trainer is handed beside the loss.

    validate   called at each evaluation; returns the task's metrics and `loss`; None: there is none
    schedule   when that is, and when it ends training
    keeps_best whether the best weights are kept, beside the checkpoints; else the last ones are taken
    budget     what moves the objective's weight, or None
    run        what its checkpoints say that they belong to (`run_identity.py`)
    """

    validate: Callable[[], dict[str, float]] | None = None
    schedule: EvaluationSchedule = field(default_factory=EvaluationSchedule)
    keeps_best: bool = False
    budget: Budget | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
