"""What happens between the steps of a training: its totals, when it is evaluated, and the regularisers' own hooks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from keeltune.tasks.task import Task
from keeltune.training.checkpoints import PREFIX
from keeltune.training.regularizers.regularizer import Regularizer
from keeltune.utils.distributed import summed_over_ranks
from keeltune.utils.errors import Problem, UserError

UNREAD = 1000
"""Micro-batches whose sums wait at most until they are read."""


@dataclass
class TrainingTotals(TrainerCallback, ExportableState):
    """What training added up: loss sums and counts of the epoch, and the work done. It travels with each checkpoint.

    `epoch` and `window` (since the last log) hold Σ CE, Σ D, Σ M, Σ loss and n_CE, n_D, n_B, steps; `work` holds
    examples, tokens, slots (tokens and padding) and predictions of all ranks. `seconds` runs from fetching a step's
    batches to its optimizer step, so that evaluation and saving are not in it. `weight` is what a budget has made of
    the objective's, and `trajectory` how: [step, what the budget bounds, the weight from there on]. `epoch` and
    `window` hold what was `read`: the micro-batches' sums wait on their device until somebody asks for them.
    """

    epoch: list[float] = field(default_factory=lambda: [0.0] * 8)
    window: list[float] = field(default_factory=lambda: [0.0] * 8)
    work: list[float] = field(default_factory=lambda: [0.0] * 4)
    seconds: float = 0.0
    weight: float | None = None
    trajectory: list[list[float]] = field(default_factory=list)
    started: float | None = None
    unread: list[Tensor] = field(default_factory=list)
    stop_asked: bool = False
    stopping: bool = False

    def state(self) -> dict[str, Any]:
        self.read()
        stored = {"epoch": self.epoch, "window": self.window, "work": self.work, "seconds": self.seconds}
        stored |= {"weight": self.weight, "trajectory": self.trajectory}
        return {"args": stored, "attributes": {}}

    def taken_up(self, rank: int) -> None:
        """A checkpoint has the sums of all ranks: they are the first one's."""
        if rank:
            self.epoch[:4] = self.window[:4] = [0.0] * 4

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.read()
        if float(state.epoch or 0).is_integer():  # not when a run goes on in the middle of an epoch
            self.epoch = [0.0] * 8

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop_timer()
        if self.stopping:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.read()

    def stop_timer(self) -> None:
        """The step is done: what follows is no training time."""
        if self.started is not None:
            self.seconds += time.perf_counter() - self.started
            self.started = None

    def add_sums(self, sums: Tensor) -> None:
        """Σ CE, Σ D, Σ M and Σ loss of a micro-batch, [4], which stay where they were computed until they are read."""
        self.unread.append(sums)
        if len(self.unread) >= UNREAD:
            self.read()

    def read(self) -> None:
        """Adds up what was added since the last time, in one transfer from the device."""
        for sums in torch.stack(self.unread).tolist() if self.unread else []:
            self._add(sums, slice(0, 4))
        self.unread.clear()

    def add_counts(self, counts: Sequence[float]) -> None:
        """n_CE, n_D and n_B of a step over all ranks; the step itself is counted too."""
        self._add([*counts, 1.0], slice(4, 8))

    def _add(self, values: Sequence[float], part: slice) -> None:
        for total in (self.epoch, self.window):
            total[part] = [a + b for a, b in zip(total[part], values, strict=True)]

    def pool(self, device: torch.device, rank: int) -> None:
        """The first rank takes over what the others have added up: its totals are those that a checkpoint keeps."""
        self.read()
        for sums in (self.epoch, self.window):
            total = summed_over_ranks(torch.tensor(sums[:4], dtype=torch.float64), device).tolist()
            sums[:4] = [0.0] * 4 if rank else total


def means(sums: Sequence[float], device: torch.device) -> tuple[float, float, float, float]:
    """Σ CE / n_CE, Σ D / n_D, Σ M / n_B and the loss of a step, of an `epoch` or `window` of TrainingTotals.

    The sums are pooled over all ranks, as the counts are already.
    """
    totals = summed_over_ranks(torch.tensor(sums[:4], dtype=torch.float64), device).tolist()
    cross_entropy, divergence, matched, loss = (s / n if n else 0.0 for s, n in zip(totals, sums[4:], strict=True))
    return cross_entropy, divergence, matched, loss


class EvaluateEvery(TrainerCallback):
    """Evaluates every `every` steps, and after the last one: in the step itself, before it is saved."""

    def __init__(self, every: int):
        self.every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_evaluate |= state.global_step % self.every == 0 or state.global_step >= state.max_steps


class Measuring(Protocol):
    """What a measured stop needs of the trainer."""

    @property
    def validate(self) -> Any: ...

    @property
    def training_totals(self) -> TrainingTotals: ...


class MeasuredStop(TrainerCallback):
    """A stop that another callback asks for (`control.should_training_stop`) is measured and saved at its step, where
    that step is not. A signal's is not measured: it is gone on from. The last of the callbacks.

    Raises: UserError where a callback asks for an evaluation and there are no validation rows.
    """

    def __init__(self, trainer: Measuring):
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_evaluate and self.trainer.validate is None:
            found, expected = "control.should_evaluate", "validation rows to evaluate on"
            raise UserError(Problem("the call", "callbacks", found, expected, "name data.validation, such as 0.1"))
        self.on_epoch_end(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        if not control.should_training_stop or self.trainer.training_totals.stopping or step in (0, state.max_steps):
            return
        latest = [name for entry in state.log_history[-3:] if entry["step"] == step for name in entry]
        measured = any(name.startswith("eval_") for name in latest)
        control.should_evaluate |= self.trainer.validate is not None and not measured
        saved = (Path(args.output_dir) / f"{PREFIX}{step}").is_dir()
        control.should_save |= args.save_strategy != SaveStrategy.NO and not saved


def tell_callbacks(trainer: Any, task: Task, every: int) -> None:
    """What callbacks ask a Trainer for: the processor, and of `args` what is evaluated when, though we do it ourselves;
    transformers' `EarlyStoppingCallback` does. The Trainer's own printer goes.

    `every`: steps between evaluations. For a Trainer that is made: it would want a data set of its own kind.
    """
    args, handler = trainer.args, trainer.callback_handler
    trainer.remove_callback([callback for callback in handler.callbacks if type(callback) is PrinterCallback][-1])
    handler.processing_class = task.processor
    if trainer.validate is not None:
        args.eval_strategy, args.eval_steps, args.load_best_model_at_end = IntervalStrategy.STEPS, every, True
        args.metric_for_best_model, args.greater_is_better = task.metrics[0], task.primary_sign > 0


class RegularizerHooks(TrainerCallback):
    """Calls the regularisers after each step."""

    def __init__(self, regularizers: Sequence[Regularizer]):
        self.regularizers = regularizers

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for regularizer in self.regularizers:
            regularizer.on_step_end(state.global_step, state.max_steps)
