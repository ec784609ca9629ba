"""A mean of weights beside the weights: kept up while they train, put in their place, carried by checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from keeltune.rows import full_precision


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


class OfTwo(Average):
    """The mean of the weights of two evaluations in a row, which is what is measured and kept: (θ_k−1 + θ_k) / 2.

    Training that a guard ends never reaches the low rates of its schedule's end; a mean of weights along the way stands
    for them, as in stochastic weight averaging. It also takes luck off the choice: the best of several single points
    on a few rows is the luckiest. `average` is θ_k−1, in the machine's own memory.
    Source: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407; Sanyal et al. 2023, https://arxiv.org/abs/2306.03241.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model, "of_two.safetensors")

    def place_of(self, weight: Tensor) -> torch.device:
        return torch.device("cpu")

    def settle(self) -> None:
        for name, weight in self._trained():
            if name in self.average:
                earlier = self.average[name].to(weight.device)
                weight.data = ((earlier + full_precision(weight.data)) / 2).to(weight.dtype)
