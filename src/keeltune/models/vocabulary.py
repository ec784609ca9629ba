"""How many ids a model knows, of tokens, segments and choices; and whether its tokenizer fits them.

An id beyond a table is read from somewhere else in memory, or ends the process: no example may hold one. Nothing is
ever added to a model's vocabulary, as a new row takes probability from all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from keeltune.models import positions

CTC = "AutoModelForCTC"

SEGMENTS = "token_type_embeddings"
"""How architectures call the table of segment numbers."""


@dataclass(frozen=True)
class Bounds:
    """The first ids that a model does not know; None where nothing bounds them.

    reads      of tokens: the rows of its smallest table of them
    segments   of the numbers of the texts of a pair
    writes     of tokens that it writes: the outputs of its vocabulary head
    places     in a sequence of tokens that is read
    written    places of a decoder beside an encoder
    """

    reads: int | None = None
    segments: int | None = None
    writes: int | None = None
    places: int | None = None
    written: int | None = None


def read_by_all(own: Bounds, others: Sequence[Bounds]) -> Bounds:
    """A model's bounds, within those of others that read the same ids."""
    known = [own, *others]
    reads, segments = ([n for b in known if (n := getattr(b, name)) is not None] for name in ("reads", "segments"))
    return replace(own, reads=min(reads, default=None), segments=min(segments, default=None))


def bounds_of(model: Any) -> Bounds:
    """What a model knows; its skeleton says it too."""
    tables = [len(table.weight) for table in token_tables(model)]
    kinds = [
        int(module.num_embeddings)
        for name, module in model.named_modules()
        if name.endswith(SEGMENTS) and isinstance(module, nn.Embedding)
    ]
    written = positions.target_positions(model) if getattr(model.config, "is_encoder_decoder", False) else None
    known = min(tables, default=None), min(kinds, default=None), _outputs(model)
    return Bounds(*known, positions.positions(model), written)


def _outputs(model: Any) -> int | None:
    """The outputs of a vocabulary head; a CTC model's are its configuration's. None where there is no such head.

    A head whose rows were filled up to a round number drops the logits of those: Inkling's kind says where they begin.
    """
    with suppress(NotImplementedError, AttributeError):
        weight = getattr(model.get_output_embeddings(), "weight", None)
        if weight is not None and weight.dim() == 2:
            own = getattr(model.config.get_text_config(decoder=True), "unpadded_vocab_size", None)
            return min(int(weight.shape[0]), own or int(weight.shape[0]))
    return vocabulary_size(model.config) if type(model).__name__.endswith("ForCTC") else None


def token_tables(model: Any) -> list[nn.Embedding]:
    """The modules that embed tokens: a model's own, and those of its encoder and decoder where they are others."""
    parts = [model, *(getattr(model, name)() for name in ("get_encoder", "get_decoder") if hasattr(model, name))]
    tables: dict[int, nn.Embedding] = {}
    for part in parts:
        try:
            table = part.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            continue
        if isinstance(table, nn.Embedding):
            tables[id(table)] = table
    return list(tables.values())


def vocabulary_size(config: Any) -> int | None:
    """V as a configuration says it, of its text part where it has several."""
    text = config.get_text_config(decoder=True)
    return getattr(text, "vocab_size", None)


def unknown_tokens(tokenizer: Any, rows: int | None) -> list[str]:
    """The tokens that texts are cut into, and that a table of so many rows does not hold, the first of them first.

    Special tokens are left out: no text is cut into them, and what puts them there is looked at with the rows.
    """
    if rows is None or len(tokenizer) <= rows:
        return []
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
        tokenizer.all_special_ids
    )
    beyond = sorted((i, name) for name, i in tokenizer.get_vocab().items() if i >= rows and i not in special)
    return [name for _, name in beyond]


def fit_ctc_head(config: Any, tokenizer: Any, *, trained: bool) -> str | None:
    """Sizes the head of a CTC model by its tokenizer, of whose letters each output is one; says so where it is new.

    `trained`: whether the model has a head. One that lacks outputs for some letters was made for others, and cannot be
    kept. Special tokens alone may lie beyond it: many tokenizers name a start and an end that are never spelt.
    """
    size, blank = vocabulary_size(config), tokenizer.pad_token_id
    if size is None:
        return None
    if blank is not None:
        config.pad_token_id = blank
    lacking = unknown_tokens(tokenizer, size) or (blank is not None and blank >= size)
    if size == len(tokenizer) or (trained and not lacking):
        return None
    config.vocab_size = len(tokenizer)
    return f"a new head spells with the {len(tokenizer)} letters of the tokenizer; the model's had {size}"
