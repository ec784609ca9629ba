from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from keeltune.models.vocabulary import token_tables
from keeltune.objective.log_probs import full_precision
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task
from keeltune.training.regularizers._refusals import without_token_embeddings
from keeltune.training.regularizers.regularizer import Refusal, Regularizer


class Fgm(Regularizer):
    """The fast gradient method: the loss is taken a second time at embeddings perturbed to where it grows.

        L(θ; e) + L(θ; e + r),      r_b = ε · g_b / ‖g_b‖,      g_b = ∂L/∂e_b

    e_b [S, H] are the token embeddings of row b, an encoder's where there is one, and ‖·‖ runs over all of a row, so
    that neither the other rows of a batch nor how a step is cut changes r_b (and 1 / n_CE cancels). No gradient flows
    through r. Both terms of L are taken twice, CE and D, which leaves their weight what it was; a row without any
    gradient is not perturbed. The second pass has dropout of its own. Works in float32, whatever autocast makes of e.

    Source: Miyato et al. 2016, https://arxiv.org/abs/1605.07725; there the table of embeddings is
    normalised first, here it is as the model has it, so that ε has the scale of its entries.
    """

    parameter = PositiveFloat
    description = (
        "ε of L(e) + L(e + ε · g / ‖g‖): the loss a second time at token embeddings that are moved along "
        "each row's gradient g (FGM, arXiv:1605.07725). 0.1, say, a fiftieth of a short text's embeddings (a fifth was "
        "ruinous); takes twice the time."
    )
    phrase = "moved embeddings (FGM, {value})"
    shardable = True
    repeats = True

    def refused(self, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
        yield from without_token_embeddings(self.name, task)

    def on_train_begin(self) -> None:
        self.table = _input_table(self.model)
        self._shifts: list[Tensor] = []

    @contextmanager
    def on_micro_batch(self, *, repeated: bool) -> Iterator[None]:
        """The first time the gradient at the embeddings is kept, the second time the embeddings are perturbed."""
        if not repeated:
            self._shifts = []
            with self._embeddings_through(self._watched):
                yield
            return
        gradients = [full_precision(shift.grad) for shift in self._shifts if shift.grad is not None]
        if not gradients:
            raise RuntimeError(f"no gradient at the embeddings of {type(self.model).__name__}, which fgm perturbs")
        r = self._perturbation(torch.stack(gradients).sum(0))
        self._shifts = []
        with self._embeddings_through(lambda e: e + r.to(e.dtype)):
            yield

    def _watched(self, e: Tensor) -> Tensor:
        self._shifts.append(torch.zeros_like(e, requires_grad=True))
        return e + self._shifts[-1]

    def _perturbation(self, g: Tensor) -> Tensor:
        """ε · g_b / ‖g_b‖ of each row: [B, S, H] -> [B, S, H]."""
        norm = g.flatten(1).norm(dim=1)[:, None, None]
        return torch.where(norm > 0, self.value * g / norm.clamp_min(torch.finfo(g.dtype).tiny), 0.0)

    @contextmanager
    def _embeddings_through(self, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Applies `change` to the first embedding of each forward pass that trains; T5's decoder shares the table, and
        a reference may be the student itself, without gradient."""
        calls = 0

        def begin(module: nn.Module, arguments: Any) -> None:
            nonlocal calls
            if torch.is_grad_enabled():
                calls = 0

        def embedded(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            nonlocal calls
            if not torch.is_grad_enabled():
                return output
            calls += 1
            return change(output) if calls == 1 else output

        handles = [self.model.register_forward_pre_hook(begin), self.table.register_forward_hook(embedded)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _input_table(model: Any) -> nn.Module:
    """The table that embeds what a model reads."""
    encodes = getattr(model.config, "is_encoder_decoder", False)
    tables = token_tables(model.get_encoder()) if encodes else token_tables(model)
    return tables[0]
