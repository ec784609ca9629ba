from __future__ import annotations

from typing import Any

from keeltune.models.surgery import token_tables


def frozen_embeddings(model: Any) -> str:
    """Stops the tables of token embeddings from training, of encoder and decoder alike; returns a note for the log.

    A vocabulary head that is tied to them is the same weights, and does not train either: the note says so. Positions
    and segments still train.

    Source: Lee et al. 2019, https://arxiv.org/abs/1911.03090 (freezing the lower part); the embeddings of the words
    that few training rows hold are the weights which fine-tuning has least reason to move.
    """
    weights = {id(p): p for table in token_tables(model) for p in table.parameters()}
    for weight in weights.values():
        weight.requires_grad_(False)
    head = model.get_output_embeddings()
    tied = head is not None and any(id(p) in weights for p in head.parameters())
    told = f"{sum(p.numel() for p in weights.values()) / 1e6:.1f} M weights of the token embeddings do not train"
    return f"{told}; the output head is tied to them, so that it does not train either" if tied else told
