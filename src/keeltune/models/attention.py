"""Attention that is another function in a short batch than in a long one."""

from __future__ import annotations

from typing import Any

SPARSE, WHOLE = "block_sparse", "original_full"
"""BigBird's two kinds, of the same weights."""


def whole_attention(config: Any) -> str | None:
    """Sets block-sparse attention to whole; what users should know of it.

    Block-sparse attention has random blocks, and turns whole by itself, for good, with the first batch that is short:
    what a row then adds to a step depends on the rows before it.
    """
    parts = (config, getattr(config, "encoder", None), getattr(config, "decoder", None))
    sparse: list[Any] = [part for part in parts if getattr(part, "attention_type", None) == SPARSE]
    for part in sparse:
        part.attention_type = WHOLE
    if not sparse:
        return None
    return "attention is whole in place of block-sparse, which turns whole with the first short batch: memory ~ length²"
