"""A weight that is moved while it trains, so that a budget holds: dual ascent on its logarithm."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from transformers import TrainerCallback

from keeltune.objective.formula import Objective
from keeltune.training.callbacks import TrainingTotals


@dataclass(frozen=True)
class Budget:
    """A limit that the weight is moved to keep: of the divergence (nats a prediction), or of the source metric's fall.

    `measure` gives what the limit bounds: D on held-out rows, or the one-sided 90 % bound of the drop of the control
    slice. `every`: steps between two measurements.
    """

    kind: str
    limit: float
    measure: Callable[[], float]
    every: int


class Weighted(Protocol):
    """What dual ascent needs of the trainer: the budget, the weight of its formula, and where it is noted."""

    budget: Budget | None
    training_totals: TrainingTotals

    @property
    def formula(self) -> Objective: ...

    def averaged(self) -> AbstractContextManager[None]: ...

    def log(self, logs: dict[str, float]) -> None: ...


class DualAscent(TrainerCallback):
    """Dual ascent in the logarithm of the weight: up where more than the limit is measured, down where it is less.

        log w ← log w + RATE · v + DAMPING · (v − v′),      v = clip(measured / limit − 1, −1, 1), v′ the one before

    The multiplier of a constraint follows its violation v; on the log, weights of any size are reached. The weights
    answer late, so that v alone would swing; its change damps that (Stooke et al. 2020, https://arxiv.org/abs/2007.03964).
    """

    RATE = 0.3
    DAMPING = 1.0
    RANGE = (1e-3, 1e2)

    def __init__(self, trainer: Weighted):
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        budget, totals = self.trainer.budget, self.trainer.training_totals
        if budget is None or (state.global_step % budget.every and state.global_step < state.max_steps):
            return
        totals.stop_timer()
        with self.trainer.averaged():
            measured, weight = budget.measure(), self.trainer.formula.weight
        if math.isfinite(measured):
            earlier = totals.trajectory[-1][1] if totals.trajectory else budget.limit
            violation, before = (max(-1.0, min(1.0, value / budget.limit - 1)) for value in (measured, earlier))
            step = self.RATE * violation + self.DAMPING * (violation - before)
            weight = min(max(weight * math.exp(step), self.RANGE[0]), self.RANGE[1])
        totals.weight = weight
        totals.trajectory.append([state.global_step, measured, weight])
        should_log = control.should_log  # which logging takes back, also for the step's own line
        self.trainer.log({budget.kind: measured, "weight": weight})
        control.should_log = should_log
