"""Means of the weights of several steps: followed while they train, and put in their place to be measured and kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from keeltune.objective.log_probs import full_precision
from keeltune.utils.sharded_tensors import is_part, local


class MeanWeights:
    """θ̄ ← θ̄ + share · (θ − θ̄) at each `move`, of the weights that train, in float32 at least.

    `mean`: θ̄ by the weights' names, of a sharded weight this process's part; empty before the first move. `device`:
    where it lies; None: with each weight.
    """

    def __init__(self, model: nn.Module, device: str | None = None):
        self.model, self.device = model, device
        self.mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def move(self, share: float) -> None:
        """A step towards the weights; the first one is all the way."""
        for name, weight in trained(self.model):
            new = full_precision(local(weight.detach()).to(self.device or weight.device))
            old = self.mean.get(name, new)
            self.mean[name] = old + share * (new - old)

    def use(self) -> None:
        """Puts the mean into the model; before the first move there is none."""
        for name, weight in trained(self.model):
            if name in self.mean:
                put(weight, self.mean[name].to(weight.device, weight.dtype, copy=True))

    def load(self, mean: Mapping[str, Tensor]) -> None:
        """Goes on from a mean that was stored."""
        self.mean = {name: mean[name].to(self.device or weight.device) for name, weight in trained(self.model)}


class PairAverage:
    """The mean of the weights of two evaluations in a row, which is what is measured and kept: (θ_k−1 + θ_k) / 2.

    Training that early stopping ends never reaches the low rates of its schedule's end; a mean of weights along the way
    stands for them, as in stochastic weight averaging. It also takes luck off the choice: the best of several single
    points on a few rows is the luckiest. `earlier` is θ_k−1, in the machine's own memory.
    Source: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407; Sanyal et al. 2023, https://arxiv.org/abs/2306.03241.
    """

    name = "pair_average"

    def __init__(self, model: nn.Module):
        self.model, self.earlier = model, MeanWeights(model, "cpu")

    def remember(self) -> None:
        """The weights of this evaluation, for the next one."""
        self.earlier.move(1.0)

    def use(self) -> None:
        """Puts the mean into the model; at the first evaluation there is none."""
        for name, weight in trained(self.model):
            if name in self.earlier.mean:
                earlier = self.earlier.mean[name].to(weight.device)
                put(weight, ((earlier + full_precision(local(weight.data))) / 2).to(weight.dtype))

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold for a run to go on to the bit."""
        return self.earlier.mean

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.earlier.load(state)


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """After it, the model has the very weights that it had before, whatever `weight.data` was set to within."""
    weights = {name: local(weight.data).clone() if is_part(weight) else weight.data for name, weight in trained(model)}
    try:
        yield
    finally:
        for name, weight in trained(model):
            put(weight, weights[name])


@torch.no_grad()
def put(weight: nn.Parameter, value: Tensor) -> None:
    """`value` in the place of a weight's numbers; of a sharded one, whose memory its model knows, into it."""
    if is_part(weight):
        local(weight).copy_(value)
    else:
        weight.data = value


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The weights that train, by name."""
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
