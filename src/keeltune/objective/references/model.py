from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import nn

from keeltune.objective.derived_predictions import Tempered
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


class Model(Reference):
    """A frozen model: a teacher Q(·;φ), or the source-domain model P(·;ψ).

    It gets every input the student gets (pixels, sound, masks). `entry` names the part of the batch that was made for
    it: a model with another tokenizer reads the same rows in its own encoding. `temperature` divides its logits before
    anything else is done with them, which calibrates it: softmax(z / temperature) is its distribution.
    """

    kind = "model"
    needs: ClassVar[frozenset[Need]] = frozenset({"models"})

    def __init__(
        self,
        model: nn.Module,
        to_rows: ToRows,
        autocast: Autocast = nullcontext,
        entry: str | None = None,
        forward: Forward = call,
        temperature: float = 1.0,
    ):
        self.model = model.eval().requires_grad_(False)
        self.to_rows = to_rows
        self.autocast = autocast
        self.entry = entry
        self.forward = forward
        self.temperature = temperature

    @classmethod
    def build(cls, context: ReferenceContext) -> Reference:
        (model,) = context.models()
        return model

    def rows(self, batch: Batch) -> Rows:
        return self.read(self.outputs(batch), batch)

    @torch.no_grad()
    def outputs(self, batch: Batch) -> Any:
        """All that the model returns for the batch."""
        with self.autocast():
            return self.forward(self.model, self._encoding_of(batch))

    @torch.no_grad()
    def read(self, outputs: Any, batch: Batch) -> Rows:
        """The predictions in what `outputs` returned."""
        rows = self.to_rows(outputs, self._encoding_of(batch))
        return rows if self.temperature == 1.0 else Tempered(rows, self.temperature)

    def _encoding_of(self, batch: Batch) -> Batch:
        return batch if self.entry is None else batch[self.entry]
