from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar

import torch

from keeltune.objective.predictions import Rows
from keeltune.objective.references.reference import (
    Autocast,
    Batch,
    Forward,
    Need,
    Reference,
    ReferenceContext,
    ToRows,
    call,
)
from keeltune.utils.device import in_eval_mode


class AdapterOff(Reference):
    """The student itself with its LoRA adapter switched off: the source model for the memory of nothing.

    Legal only if the adapter started at zero, so that switched off is where training began; that is the caller's to
    check. The student runs in eval mode here and is back in its own mode on return, before `backward`: gradient
    checkpointing runs the forward pass again and must meet the same mode.
    """

    kind = "adapter-off"
    needs: ClassVar[frozenset[Need]] = frozenset({"models", "student"})

    def __init__(self, model: Any, to_rows: ToRows, autocast: Autocast = nullcontext, forward: Forward = call):
        self.model = model  # a peft.PeftModel
        self.to_rows = to_rows
        self.autocast = autocast
        self.forward = forward

    @classmethod
    def build(cls, context: ReferenceContext) -> AdapterOff:
        return cls(context.student, context.to_rows, context.autocast, context.forward)

    @torch.no_grad()
    def rows(self, batch: Batch) -> Rows:
        with in_eval_mode(self.model), self.model.disable_adapter(), self.autocast():
            outputs = self.forward(self.model, batch)
        return self.to_rows(outputs, batch)
