"""How many tokens a model reads at once, and how many a decoder beside an encoder writes.

A configuration says it under several names or not at all, and a table may be longer than what can be read of it: both
are asked, and the smaller answer holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

TABLES = frozenset({"position_embeddings", "position_embedding", "embed_positions", "wpe", "positions_embed",
                    "position_embeds_layer"})  # fmt: skip
"""How architectures call the table of a token's places in its text."""

ELSEWHERE = ("vision", "visual", "image", "audio")
"""Parts of a model whose places are those of patches or frames."""

READ = ("max_encoder_position_embeddings", "max_position_embeddings", "max_seq_len")
WRITTEN = ("max_decoder_position_embeddings", "max_target_positions", "max_position_embeddings", "max_seq_len")
"""How configurations call the two numbers."""


def positions(model: Any) -> int | None:
    """How many tokens the model (or its skeleton) can read, or None where nothing bounds it."""
    config = getattr(model.config, "encoder", None) or model.config.get_text_config()
    return min([*_stated(config, READ), *_tables(model, decoder=False)], default=None)


def target_positions(model: Any) -> int | None:
    """How many tokens a decoder beside an encoder can write, or None where nothing bounds it."""
    config = getattr(model.config, "decoder", None) or model.config.get_text_config(decoder=True)
    return min([*_stated(config, WRITTEN), *_tables(model, decoder=True)], default=None)


def _stated(config: Any, names: tuple[str, ...]) -> list[int]:
    values = (getattr(config, name, None) for name in names)
    return next(([n] for n in values if isinstance(n, int) and n > 0), [])


def _tables(model: nn.Module, *, decoder: bool) -> Iterator[int]:
    """The places that the tables of one side have. A model without an encoder is one side: what it reads, it writes."""
    two_sides = bool(getattr(model.config, "is_encoder_decoder", False))
    for name, module in model.named_modules():
        path = name.split(".")
        rows = getattr(module, "weight", None)  # I-BERT's is no nn.Embedding
        if path[-1] not in TABLES or rows is None or rows.dim() != 2:
            continue
        if any(word in part for part in path for word in ELSEWHERE) or (two_sides and decoder != ("decoder" in path)):
            continue
        yield len(rows) - _first(module)


def _first(table: nn.Module) -> int:
    """The row of a text's first token: RoBERTa's kind counts from behind the padding's, BART's from an offset."""
    offset = getattr(table, "offset", None)
    if isinstance(offset, int):
        return offset
    padding = getattr(table, "padding_idx", None)
    return padding + 1 if isinstance(padding, int) else 0
