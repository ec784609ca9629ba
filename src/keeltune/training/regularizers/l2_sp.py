from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import PositiveFloat
from torch import Tensor

from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import NewModel
from keeltune.tasks.task import Task
from keeltune.training.regularizers.regularizer import Refusal, Regularizer


class L2SP(Regularizer):
    """λ/2 · ‖θ − θ₀‖²: the squared distance from the weights before training, added to a step's loss.

    It runs over the weights that train, without those that no checkpoint held. A step has it once, however it is cut.

    Source: Li et al. 2018, https://arxiv.org/abs/1802.01483.
    """

    parameter = PositiveFloat
    description = (
        "λ of λ/2 · ‖θ − θ₀‖², the squared distance from the weights before training, added to the loss; "
        "`training.l2_sp` is the same."
    )
    phrase = "weights near their start (L2-SP, {value})"
    copies = 1

    def refused(self, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
        if recipe.training.lora is not None:
            expected = "no l2_sp with lora: the weights of the start are not trained"
            yield Refusal(expected, "leave one of the two out")
        if isinstance(recipe.model, NewModel):
            yield Refusal("no l2_sp: the weights of a new model are random, and nothing is to be kept of them")

    def on_train_begin(self) -> None:
        pretrained = {n: p for n, p in self.model.named_parameters() if p.requires_grad and n not in self.fresh}
        self.start = {name: weight.detach().clone() for name, weight in pretrained.items()}

    def on_weights(self) -> Tensor:
        squares = [(p - self.start[n]).square().sum() for n, p in self.model.named_parameters() if n in self.start]
        return 0.5 * self.value * torch.stack(squares).sum()
