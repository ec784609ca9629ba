from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from torch import Tensor

from keeltune.recipe.field_types import AsNumber, Auto, AutoOrKind, Share
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task
from keeltune.training.checkpoint_averaging import MeanWeights
from keeltune.training.regularizers.regularizer import Refusal, Regularizer

LARGEST = 0.999
"""The largest β that `auto` takes."""


class WeightAverage(Regularizer):
    """A running average of the weights, which is what is measured, kept and saved in their place.

        θ̄_t = Σ_i β^(t−i) · θ_i / Σ_i β^(t−i),      i = 1 … t optimizer steps,      auto: β = 1 − 1 / (0.1 · steps)

    The start is no part of it: the sum is divided by what its terms weigh, as Adam's moments are, so that a short run
    or a new head is not held back by where it began. `auto` is at most 0.999, at least 0. In float32 at least, of the
    weights that train. Training itself goes on from the weights, not from their average.

    Source: Polyak & Juditsky 1992, https://doi.org/10.1137/0330046; Tarvainen & Valpola 2017,
    https://arxiv.org/abs/1703.01780.
    """

    parameter = Annotated[Auto | AsNumber[Share], AutoOrKind]
    description = (
        "β of a running average of the weights, θ̄ = Σ β^(t−i) θ_i / Σ β^(t−i), which is what is measured "
        "and kept (arXiv:1703.01780). auto: 1 − 1 / (0.1 · steps), at most 0.999."
    )
    phrase = "averaged weights ({value})"
    shardable = True
    copies = 1

    def refused(self, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
        """It has a meaning for whatever trains."""
        return iter(())

    def on_train_begin(self) -> None:
        self.average = MeanWeights(self.model)

    def on_step_end(self, step: int, steps: int) -> None:
        beta = self.beta(steps)
        self.average.move((1 - beta) / (1 - beta**step))  # the share of the newest weights; 1 in the first step

    def on_evaluate(self) -> None:
        self.average.use()

    def state(self) -> Mapping[str, Tensor]:
        return self.average.mean

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.average.load(state)

    def reported(self, steps: int) -> float:
        """The β that `auto` stands for."""
        return self.beta(steps)

    def beta(self, steps: int) -> float:
        """β of a run of so many steps."""
        return min(LARGEST, max(0.0, 1 - 1 / (0.1 * steps))) if self.value == "auto" else self.value
