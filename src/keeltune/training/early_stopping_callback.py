"""What ends a training that goes on from a checkpoint after which nothing is left to do."""

from __future__ import annotations

from typing import Any, Protocol

from transformers import TrainerCallback


class Evaluated(Protocol):
    """What early stopping needs of the trainer."""

    def out_of_patience(self, state: Any) -> bool: ...


class EarlyStopped(Exception):
    """A run that goes on had trained to its end before it was stopped: nothing is left to train."""


class EarlyStopping(TrainerCallback):
    """Raises `EarlyStopped` where a checkpoint's history shows no gain of late, or its step is the last one.

    The Trainer forgets the first, and in the middle of an epoch it would take one step more.
    """

    def __init__(self, trainer: Evaluated):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps or self.trainer.out_of_patience(state):
            raise EarlyStopped
