"""Whether a step's loss and gradient are finite numbers, looked at before the optimizer makes an update of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from keeltune.utils.distributed import summed_over_ranks
from keeltune.utils.errors import Diverged
from keeltune.utils.sharded_tensors import is_sharded, local


class FiniteCheck:
    """Remembers what is wrong with a micro-batch's loss, and refuses the step when all processes have its gradient:
    none is left waiting for one that has raised. `device`: on which processes tell each other."""

    def __init__(self, device: Any = "cpu") -> None:
        self.broken, self.rows, self.device = "", "", device

    def look_at(self, loss: float, terms: Sequence[float], keys: Sequence[str]) -> None:
        """A micro-batch's loss and its Σ CE, Σ D, Σ M; `keys`: its rows."""
        if self.broken:
            return
        self.rows = f"{', '.join(key[:12] for key in keys[:8])}{'…' if len(keys) > 8 else ''}"
        if not math.isfinite(loss):
            cross_entropy, divergence, matched = terms
            self.broken = f"the loss is {loss} (Σ CE {cross_entropy}, Σ D {divergence}, Σ M {matched})"

    def refuse_broken(self, model: nn.Module, step: int) -> None:
        """Raises Diverged where the loss or the gradient of step `step`, which no optimizer has seen, is not finite.

        Of a sharded gradient each process looks at its part; what is wrong with one of them ends all.
        """
        gradients = {name: local(w.grad.detach()) for name, w in model.named_parameters() if w.grad is not None}
        norms = torch._foreach_norm(list(gradients.values())) if gradients else []
        broken: list[str] = []
        if norms and not bool(torch.stack([n.float() for n in norms]).sum().isfinite()):  # or their squares are large
            broken = [
                name for (name, gradient), norm in zip(gradients.items(), norms, strict=True)
                if not norm.isfinite() and not gradient.isfinite().all()
            ]  # fmt: skip
        wrong = bool(self.broken or broken)
        if is_sharded(model):
            wrong = summed_over_ranks(torch.tensor([float(wrong)]), self.device).item() > 0
        if not wrong:
            return
        broken = broken or ["a weight that another process holds"]
        found = self.broken or f"the gradient of {broken[0]} is not finite ({len(broken)} of {len(gradients)} weights)"
        raise Diverged(
            f"step {step}: {found}; no update was made. Rows: {self.rows}. Lower learning_rate, or use precision: fp32."
        )
