from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from keeltune.models.surgery import token_tables
from keeltune.objective.predictions import full_precision


class Fgm:
    """The fast gradient method: the loss is taken a second time at embeddings that are moved to where it grows.

        L(θ; e) + L(θ; e + r),      r_b = ε · g_b / ‖g_b‖,      g_b = ∂L/∂e_b

    e_b [S, H] are the token embeddings of row b, an encoder's where there is one, and ‖·‖ runs over all of a row, so
    that neither the rows beside it nor how a step is cut changes r_b (and 1 / n_CE cancels). No gradient flows through
    r. Both terms of L are taken twice, CE and D, which leaves their weight what it was; a row without any gradient is
    not moved. Dropout is drawn again in the second pass. Works in float32, whatever autocast makes of e.

    Source: Miyato et al. 2016, https://arxiv.org/abs/1605.07725; there the table of embeddings is
    normalised first, here it is as the model has it, so that ε has the scale of its entries.
    """

    def __init__(self, model: Any, strength: float):
        self.model, self.strength = model, strength
        self.table = _reader(model)
        self.moving = False
        self._shifts: list[Tensor] = []
        self._calls = 0

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within: forward passes whose backward pass leaves the gradient at the embeddings."""
        self._shifts = []

        def note(e: Tensor) -> Tensor:
            self._shifts.append(torch.zeros_like(e, requires_grad=True))
            return e + self._shifts[-1]

        with self._hooked(note):
            yield

    @contextmanager
    def moved(self) -> Iterator[None]:
        """Within: forward passes at the moved embeddings."""
        found = [full_precision(shift.grad) for shift in self._shifts if shift.grad is not None]
        if not found:
            raise RuntimeError(f"no gradient at the embeddings of {type(self.model).__name__}, which fgm moves")
        r = self._step(torch.stack(found).sum(0))
        self._shifts, self.moving = [], True
        try:
            with self._hooked(lambda e: e + r.to(e.dtype)):
                yield
        finally:
            self.moving = False

    def _step(self, g: Tensor) -> Tensor:
        """ε · g_b / ‖g_b‖ of each row: [B, S, H] -> [B, S, H]."""
        norm = g.flatten(1).norm(dim=1)[:, None, None]
        return torch.where(norm > 0, self.strength * g / norm.clamp_min(torch.finfo(g.dtype).tiny), 0.0)

    @contextmanager
    def _hooked(self, change: Any) -> Iterator[None]:
        """Applies `change` to the first embedding of each forward pass that trains; T5's decoder shares the table, and
        a reference may be the student itself, asked without gradient."""

        def begin(module: nn.Module, arguments: Any) -> None:
            if torch.is_grad_enabled():
                self._calls = 0

        def use(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                return output
            self._calls += 1
            return change(output) if self._calls == 1 else output

        handles = [self.model.register_forward_pre_hook(begin), self.table.register_forward_hook(use)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _reader(model: Any) -> nn.Module:
    """The table that embeds what a model reads."""
    encodes = getattr(model.config, "is_encoder_decoder", False)
    tables = token_tables(model.get_encoder()) if encodes else token_tables(model)
    return tables[0]
