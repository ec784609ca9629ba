"""Whether a step's loss and gradient are finite numbers, looked at before the optimizer makes an update of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from keeltune.utils.distributed import summed_over_ranks
from keeltune.utils.errors import Diverged
from keeltune.utils.sharded_tensors import is_sharded, local


class FiniteCheck:
    """Remembers a step's losses, and refuses the step when all processes have its gradient: none is left waiting for
    one that has raised. `device`: on which processes tell each other.

    Losses and gradient are looked at together: the one time in a step that the host waits for its device.
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.device = device
        self.micro_batches: list[tuple[Tensor, Sequence[str]]] = []

    def note(self, sums: Tensor, keys: Sequence[str]) -> None:
        """A micro-batch's Σ CE, Σ D, Σ M and loss, [4]; `keys`: its rows."""
        self.micro_batches.append((sums, keys))

    def refuse_broken(self, model: nn.Module, step: int) -> None:
        """Raises Diverged where the loss or the gradient of step `step`, which no optimizer has seen, is not finite.

        Of a sharded gradient each process looks at its part; what is wrong with one of them ends all.
        """
        gradients = {name: local(w.grad.detach()) for name, w in model.named_parameters() if w.grad is not None}
        norms = torch._foreach_norm(list(gradients.values())) if gradients else []
        noted, self.micro_batches = self.micro_batches, []
        looked_at = [*(sums[3] for sums, _ in noted), *norms]  # on one device, but where gradients are offloaded
        place = looked_at[0].device if looked_at else None
        numbers = torch.stack([number.to(place, torch.float32) for number in looked_at]) if looked_at else torch.ones(1)
        broken: list[str] = []
        loss = ""
        if not bool(numbers.isfinite().all()):  # or a norm is too large for its square
            loss, _ = _first_broken(noted)
            broken = [
                name for (name, gradient), norm in zip(gradients.items(), norms, strict=True)
                if not norm.isfinite() and not gradient.isfinite().all()
            ]  # fmt: skip
        wrong = bool(loss or broken)
        if is_sharded(model):
            wrong = summed_over_ranks(torch.tensor([float(wrong)]), self.device).item() > 0
        if not wrong:
            return
        loss, rows = _first_broken(noted)
        broken = broken or ["a weight that another process holds"]
        found = loss or f"the gradient of {broken[0]} is not finite ({len(broken)} of {len(gradients)} weights)"
        raise Diverged(
            f"step {step}: {found}; no update was made. Rows: {rows}. Lower learning_rate, or use precision: fp32."
        )


def _first_broken(micro_batches: Sequence[tuple[Tensor, Sequence[str]]]) -> tuple[str, str]:
    """What is wrong with the first loss that is no finite number, and its rows; else nothing, and the last's rows."""
    found, keys = "", micro_batches[-1][1] if micro_batches else ()
    for sums, rows in micro_batches:
        cross_entropy, divergence, matched, loss = sums.tolist()
        if not math.isfinite(loss):
            found, keys = f"the loss is {loss} (Σ CE {cross_entropy}, Σ D {divergence}, Σ M {matched})", rows
            break
    return found, f"{', '.join(key[:12] for key in keys[:8])}{'…' if len(keys) > 8 else ''}"
