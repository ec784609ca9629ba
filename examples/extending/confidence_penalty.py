"""A regulariser of your own: one final class in a module of your own package.

training: {regularizers: {"my_package.confidence_penalty:ConfidencePenalty": 0.1}}
"""

from collections.abc import Iterator, Sequence

import torch
from pydantic import PositiveFloat
from torch import Tensor

from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task
from keeltune.training.regularizers.regularizer import Refusal, Regularizer


class ConfidencePenalty(Regularizer):
    """−β · H(p) = β Σ_c p_c log p_c of each labelled prediction: sure answers cost.

    Source: Pereyra et al. 2017, https://arxiv.org/abs/1701.06548.
    """

    parameter = PositiveFloat
    description = "β of −β · H(p), the entropy of each labelled prediction. 0.1, say."
    phrase = "a penalty on sure answers ({value})"
    passes = 1  # `on_labelled` is handed the log-probabilities of one forward pass

    def refused(self, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
        if recipe.data.train is None:
            yield Refusal("rows with labels: it is a term of labelled predictions")

    def on_labelled(self, passes: Sequence[Tensor], targets: Tensor) -> Tensor:
        """[n, C] a pass, [n] -> [n] nats: a sum is made of it, and divided by the step's n_CE."""
        return torch.stack([self._term(log_probs) for log_probs in passes]).mean(0)

    def _term(self, log_probs: Tensor) -> Tensor:
        possible = log_probs.masked_fill(log_probs == -torch.inf, 0.0)  # 0 · log 0 = 0, in the gradient too
        return self.value * (log_probs.exp() * possible).sum(-1)
