from __future__ import annotations

from typing import Any, Literal

from torch import nn

from keeltune.averages import Average

MOST = 0.999
"""The largest β that `auto` takes."""


class WeightAverage(Average):
    """A running average of the weights, which is what is measured, kept and saved in their place.

        θ̄_t = Σ_i β^(t−i) · θ_i / Σ_i β^(t−i),      i = 1 … t optimizer steps,      auto: β = 1 − 1 / (0.1 · steps)

    The start is no part of it: the sum is divided by what its terms weigh, as Adam's moments are, so that a short run
    or a new head is not held back by where it began. `auto` is at most 0.999, at least 0. In float32 at least, of the
    weights that train. Training itself goes on from the weights, not from their average.

    Source: Polyak & Juditsky 1992, https://doi.org/10.1137/0330046; Tarvainen & Valpola 2017,
    https://arxiv.org/abs/1703.01780.
    """

    def __init__(self, model: nn.Module, decay: float | Literal["auto"] = "auto"):
        super().__init__(model, "weight_average.safetensors")
        self.decay = decay

    def beta(self, steps: int) -> float:
        """β of a run of so many steps."""
        return min(MOST, max(0.0, 1 - 1 / (0.1 * steps))) if self.decay == "auto" else self.decay

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        beta, t = self.beta(state.max_steps), state.global_step
        self.move((1 - beta) / (1 - beta**t))  # the share of the newest weights; 1 in the first step
