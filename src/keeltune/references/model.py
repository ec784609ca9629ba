from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from keeltune.references.reference import Autocast, Batch, Forward, Reference, ToRows, call
from keeltune.rows import Rows


class Model(Reference):
    """A frozen model: a teacher Q(·;φ), or the source-domain model P(·;ψ).

    It gets every input the student gets (pixels, sound, masks). `entry` names the part of the batch that was made for
    it: a model with another tokenizer reads the same rows in its own encoding.
    """

    kind = "model"

    def __init__(
        self,
        model: nn.Module,
        to_rows: ToRows,
        autocast: Autocast = nullcontext,
        entry: str | None = None,
        forward: Forward = call,
    ):
        self.model = model.eval().requires_grad_(False)
        self.to_rows = to_rows
        self.autocast = autocast
        self.entry = entry
        self.forward = forward

    @torch.no_grad()
    def rows(self, batch: Batch) -> Rows:
        batch = batch if self.entry is None else batch[self.entry]
        with self.autocast():
            outputs = self.forward(self.model, batch)
        return self.to_rows(outputs, batch)
