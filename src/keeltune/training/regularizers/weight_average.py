from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from keeltune.objective.predictions import full_precision


class Average(TrainerCallback):
    """θ̄ ← θ̄ + share · (θ − θ̄) at each `move`, of the weights that train, in float32 at least.

    `file`: its name in a checkpoint's folder, from which it is read again when a run goes on.
    """

    def __init__(self, model: nn.Module, file: str):
        self.model, self.file = model, file
        self.average: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        stored = Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.file
        if state.global_step and stored.is_file():
            held = load_file(stored)
            self.average = {name: held[name].to(self.place_of(weight)) for name, weight in self._trained()}

    def place_of(self, weight: Tensor) -> torch.device:
        """The device on which a weight's average lies."""
        return weight.device

    @torch.no_grad()
    def move(self, share: float) -> None:
        """A step towards the weights; the first one is all the way."""
        for name, weight in self._trained():
            new = full_precision(weight.detach().to(self.place_of(weight)))
            old = self.average.get(name, new)
            self.average[name] = old + share * (new - old)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within: the model holds the average; after it, the very weights that it had."""
        own = {name: weight.data for name, weight in self._trained()}
        self.settle()
        try:
            yield
        finally:
            for name, weight in self._trained():
                weight.data = own[name]

    def settle(self) -> None:
        """Leaves the average in the model; before the first move there is none."""
        for name, weight in self._trained():
            if name in self.average:
                weight.data = self.average[name].to(weight.device, weight.dtype, copy=True)

    def save(self, folder: Path) -> None:
        """Beside a checkpoint's weights."""
        save_file({name: value.cpu().contiguous() for name, value in self.average.items()}, folder / self.file)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]


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
