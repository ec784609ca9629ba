from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keeltune.models.vocabulary import token_tables
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import NewModel
from keeltune.tasks.task import Task
from keeltune.training.regularizers._refusals import without_token_embeddings
from keeltune.training.regularizers.regularizer import Refusal, Regularizer


class FreezeEmbeddings(Regularizer):
    """Stops the tables of token embeddings from training, of encoder and decoder alike.

    A vocabulary head that is tied to them is the same weights, and does not train either: the log says so. Positions
    and segments still train.

    Source: Lee et al. 2019, https://arxiv.org/abs/1911.03090 (freezing the lower part); the embeddings of the words
    that few training rows hold are the weights which fine-tuning has least reason to move.
    """

    parameter = bool
    description = (
        "The tables of token embeddings do not train, nor does an output head that is tied to them (arXiv:1911.03090)."
    )
    phrase = "frozen token embeddings"
    shardable = True

    def refused(self, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
        if recipe.training.lora is not None:
            yield Refusal(f"no {self.name}: only adapters train (lora), the embeddings do not")
        if isinstance(recipe.model, NewModel):
            yield Refusal(f"no {self.name}: the embeddings of a new model are random, and must train")
        yield from without_token_embeddings(self.name, task)

    def on_model(self, model: Any) -> str:
        weights = {id(p): p for table in token_tables(model) for p in table.parameters()}
        for weight in weights.values():
            weight.requires_grad_(False)
        head = model.get_output_embeddings()
        tied = head is not None and any(id(p) in weights for p in head.parameters())
        note = f"{sum(p.numel() for p in weights.values()) / 1e6:.1f} M weights of the token embeddings do not train"
        return f"{note}; the output head is tied to them, so that it does not train either" if tied else note
