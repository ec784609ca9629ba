"""A mean of weights beside the weights: kept up while they train, put in their place, carried by checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from keeltune.objective.predictions import full_precision
from keeltune.training.regularizers.weight_average import Average


class PairAverage(Average):
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
