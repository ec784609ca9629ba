from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from keeltune.references.reference import Autocast, Batch, Reference, ToRows
from keeltune.rows import Rows


class Model(Reference):
    """A frozen model: a teacher Q(·;φ), or the source-domain model P(·;ψ).

    It gets every input the student gets (pixels, sound, masks). `inputs` names the batch's inputs made for it: a
    model with another tokenizer reads the same text in its own encoding.
    """

    kind = "model"

    def __init__(self, model: nn.Module, to_rows: ToRows, autocast: Autocast = nullcontext, inputs: str = "inputs"):
        self.model = model.eval().requires_grad_(False)
        self.to_rows = to_rows
        self.autocast = autocast
        self.inputs = inputs

    @torch.no_grad()
    def rows(self, batch: Batch) -> Rows:
        with self.autocast():
            outputs = self.model(**batch[self.inputs])
        return self.to_rows(outputs, batch)
