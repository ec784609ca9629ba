from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from keeltune.models.vocabulary import token_tables
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task
from keeltune.training.regularizers._refusals import without_token_embeddings
from keeltune.training.regularizers.regularizer import Refusal, Regularizer


class Neftune(Regularizer):
    """Noise on what a text's tokens are embedded as, in training alone.

        e + α / √(L · d) · u,      u uniform in [−1, 1],  [B, S, d]

    d is the width of an embedding and L the length of a text without its padding, also where texts are packed: neither
    the rows beside a text nor the layout of a batch changes the size of its noise. Of an encoder-decoder what the
    encoder reads. What is scored and saved, and a reference, reads no noise.

    Source: Jain et al. 2023, https://arxiv.org/abs/2310.05914.
    """

    parameter = PositiveFloat
    description = (
        "α of uniform noise α / √(L · d) on the embeddings of a text of L tokens in training (NEFTune, "
        "arXiv:2310.05914); 5, say, for instruction tuning."
    )
    phrase = "noise on embeddings (NEFTune, {value})"
    shardable = True

    def refused(self, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
        yield from without_token_embeddings(self.name, task)

    def on_train_begin(self) -> None:
        encodes = getattr(self.model.config, "is_encoder_decoder", False)
        self.table = token_tables(self.model.get_encoder() if encodes else self.model)[0]

    @contextmanager
    def on_micro_batch(self, *, repeated: bool) -> Iterator[None]:
        lengths: list[Tensor] = []

        def begin(module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
            parts = named.get("parts", [named])  # rows that run apart (`tasks/common/padding_effect.py`)
            lengths[:] = map(lengths_of, parts) if torch.is_grad_enabled() else []

        def embedded(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            if not torch.is_grad_enabled() or not lengths or lengths[0].shape != output.shape[:2]:
                return output  # T5's decoder shares the table
            size = self.value / (lengths.pop(0) * output.shape[-1]).sqrt()
            return output + size[..., None].to(output) * (2 * torch.rand_like(output) - 1)

        handles = [
            self.model.register_forward_pre_hook(begin, with_kwargs=True),
            self.table.register_forward_hook(embedded),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def lengths_of(inputs: dict[str, Any]) -> Tensor:
    """For each place [B, S] the length of the text that it belongs to: by the mask; of packed texts by positions."""
    mask = inputs.get("attention_mask")
    if mask is not None:
        return mask.sum(1, keepdim=True).clamp_min(1).expand_as(mask).double()
    ids, positions = inputs["input_ids"], inputs.get("position_ids")
    if positions is None:
        return torch.full(ids.shape, float(ids.shape[1]), dtype=torch.float64, device=ids.device)
    text = (positions == 0).cumsum(1) + torch.arange(len(ids), device=ids.device)[:, None] * (ids.shape[1] + 1)
    _, index, counts = text.unique(return_inverse=True, return_counts=True)
    return counts[index].double()
