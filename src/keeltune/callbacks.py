"""What happens between the steps of a training: its ledger, when it is measured, when it ends, what a budget moves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

if TYPE_CHECKING:
    from keeltune.trainer import KeelTrainer


@dataclass
class Ledger(TrainerCallback, ExportableState):
    """What training added up: loss sums and counts of the epoch, and the work done. It travels with each checkpoint.

    `epoch` and `window` (since the last log) hold Σ CE, Σ D, Σ M, Σ loss and n_CE, n_D, n_B, steps; `work` holds
    examples, tokens, slots (tokens and padding) and predictions of all ranks. `seconds` runs from fetching a step's
    batches to its optimizer step, so that evaluation and saving are not in it. `weight` is what a budget has made of
    the objective's, and `trajectory` how: [step, what the budget bounds, the weight from there on].
    """

    epoch: list[float] = field(default_factory=lambda: [0.0] * 8)
    window: list[float] = field(default_factory=lambda: [0.0] * 8)
    work: list[float] = field(default_factory=lambda: [0.0] * 4)
    seconds: float = 0.0
    weight: float | None = None
    trajectory: list[list[float]] = field(default_factory=list)
    started: float | None = None
    stop_asked: bool = False
    stopping: bool = False

    def state(self) -> dict[str, Any]:
        kept = {"epoch": self.epoch, "window": self.window, "work": self.work, "seconds": self.seconds}
        kept |= {"weight": self.weight, "trajectory": self.trajectory}
        return {"args": kept, "attributes": {}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.process_index:  # a checkpoint has the sums of all ranks, as the first one's
            self.epoch[:4] = self.window[:4] = [0.0] * 4

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if float(state.epoch or 0).is_integer():  # not when a run goes on in the middle of an epoch
            self.epoch = [0.0] * 8

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rest()
        if self.stopping:
            control.should_save = control.should_training_stop = True

    def rest(self) -> None:
        """The step is done: what follows is no training time."""
        if self.started is not None:
            self.seconds += time.perf_counter() - self.started
            self.started = None

    def add(self, values: list[float], places: slice) -> None:
        for total in (self.epoch, self.window):
            total[places] = [a + b for a, b in zip(total[places], values, strict=True)]


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


@dataclass(frozen=True)
class Pace:
    """How often a run looks at its validation rows, and when that ends it.

    `every`: steps between evaluations, None for each epoch. `patience`: evaluations without a gain after which training
    ends, None for never, and not before step `not_before`. `averages`: what is measured and kept is the mean of the
    weights of two evaluations in a row.
    """

    every: int | None = None
    patience: int | None = None
    not_before: int = 0
    averages: bool = False


class Cadence(TrainerCallback):
    """Asks for an evaluation every `every` steps and after the last one; at each epoch's end where `every` is None."""

    def __init__(self, every: int | None):
        self.every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = state.global_step >= state.max_steps
        control.should_evaluate |= self.every is not None and (last or state.global_step % self.every == 0)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        stopped = control.should_training_stop and state.global_step < state.max_steps  # in the middle of the epoch
        control.should_evaluate |= self.every is None and not stopped


class Enough(Exception):
    """A run that goes on had used up its patience before it was stopped: nothing is left to train."""


class Patience(TrainerCallback):
    """Raises `Enough` where a checkpoint's history has no gain in the last evaluations; the Trainer forgets that."""

    def __init__(self, trainer: KeelTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.patient_no_more(state):
            raise Enough


class Dual(TrainerCallback):
    """Dual ascent in the logarithm of the weight: up where more than the limit is measured, down where it is less.

        log w ← log w + RATE · v + DAMPING · (v − v′),      v = clip(measured / limit − 1, −1, 1), v′ the one before

    The multiplier of a constraint follows its violation v; on the log, weights of any size are reached. The weights
    answer late, so that v alone would swing; its change damps that (Stooke et al. 2020, https://arxiv.org/abs/2007.03964).
    """

    RATE = 0.3
    DAMPING = 1.0
    RANGE = (1e-3, 1e2)

    def __init__(self, trainer: KeelTrainer):
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        budget, ledger = self.trainer.budget, self.trainer.ledger
        if budget is None or (state.global_step % budget.every and state.global_step < state.max_steps):
            return
        ledger.rest()
        with self.trainer.averaged():
            found, weight = budget.measure(), self.trainer.formula.weight
        if math.isfinite(found):
            earlier = ledger.trajectory[-1][1] if ledger.trajectory else budget.limit
            now, then = (max(-1.0, min(1.0, value / budget.limit - 1)) for value in (found, earlier))
            step = self.RATE * now + self.DAMPING * (now - then)
            weight = min(max(weight * math.exp(step), self.RANGE[0]), self.RANGE[1])
        ledger.weight = weight
        ledger.trajectory.append([state.global_step, found, weight])
        asked = control.should_log  # which logging takes back, also what was asked of the step's own line
        self.trainer.log({budget.kind: found, "weight": weight})
        control.should_log = asked
