"""What happens between the steps of a training: its ledger, when it is measured, when it ends, what a budget moves."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState


@dataclass
class TrainingTotals(TrainerCallback, ExportableState):
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


class EvaluateEvery(TrainerCallback):
    """Asks for an evaluation every `every` steps and after the last one; at each epoch's end where `every` is None."""

    def __init__(self, every: int | None):
        self.every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = state.global_step >= state.max_steps
        control.should_evaluate |= self.every is not None and (last or state.global_step % self.every == 0)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        stopped = control.should_training_stop and state.global_step < state.max_steps  # in the middle of the epoch
        control.should_evaluate |= self.every is None and not stopped
