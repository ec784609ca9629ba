"""The callbacks that a caller of `kt.train` hands to the Trainer: transformers' own kind, stock ones and the user's.

They are called as a stock Trainer calls them and are no part of the run: neither its identity nor its folder knows
them. What they ask of `control` is done; a training that one of them stops is measured and saved where it stands.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from keeltune.utils.errors import CallbackFailed, Problem, UserError, shown


class GivenCallbacks:
    """Objects or classes derived from `transformers.TrainerCallback`, in the order in which they are called.

    Raises: UserError for anything else.
    """

    def __init__(self, callbacks: Sequence[Any] = ()):
        several = isinstance(callbacks, list | tuple)
        wrong = [] if several else [callbacks]
        wrong += [one for one in callbacks if not _is_callback(one)] if several else []
        if wrong:
            expected = "a list of transformers.TrainerCallback objects, or of classes derived from it"
            fix = "derive from transformers.TrainerCallback, and hand over a list"
            raise UserError([Problem("the call", "callbacks", shown(one), expected, fix) for one in wrong])
        self.callbacks = list(callbacks)
        self._begun = {id(one): deepcopy(one.state()) for one in callbacks if isinstance(one, ExportableState)}

    def begin(self) -> list[Any]:
        """Those of one training. What an `ExportableState` has counted in the training before, of another seed, is
        taken back; a class is made anew."""
        for one in self.callbacks:
            for name, value in self._begun.get(id(one), {}).get("attributes", {}).items():
                setattr(one, name, deepcopy(value))
        return [one() if isinstance(one, type) else one for one in self.callbacks]

    def failure(self, error: Exception, state: Any = None) -> CallbackFailed | None:
        """An error that one of them raised, with its place; None where it was raised elsewhere. `state`: the Trainer's,
        where there is one."""
        kinds = [one if isinstance(one, type) else type(one) for one in self.callbacks]
        for frame, line in traceback.walk_tb(error.__traceback__):
            event = frame.f_code.co_name
            # asked of those frames alone: what a frame was asked for it holds on to, and data workers with it
            if event.startswith("on_") and type(frame.f_locals.get("self")) in kinds:
                place = f"{frame.f_code.co_filename}:{line}"
                name, step = f"{type(frame.f_locals['self']).__name__}.{event}", _when(state)
                return CallbackFailed(f"the callback {name} raised it ({place}), {step}", error)
        return None


def _when(state: Any) -> str:
    return f"after step {state.global_step} of {state.max_steps}" if state else "before the first step"


def _is_callback(one: Any) -> bool:
    return isinstance(one, TrainerCallback) or (isinstance(one, type) and issubclass(one, TrainerCallback))
