"""How large the numbers of a configuration may be.

A configuration is obeyed before any weight is looked at: its own constructor lists its layers and labels, and a model
is built of it. What no model has ever come near is therefore refused by its name while it is only a number in a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from keeltune.utils.errors import shown

MOST_IN_A_ROW = 1_000
"""Layers after each other: the deepest published stack has as many (DeepNet, https://arxiv.org/abs/2203.00555)."""

MOST_ACROSS = 2**20
"""Numbers of a hidden state, heads, experts or labels."""

MOST_ALONG = 2**27
"""Positions, or rows of a vocabulary: a hundred million tokens are the longest context that was announced."""

LIMITS: tuple[tuple[str, int], ...] = (
    (r".*vocab.*|.*(positions?|position_embeddings|n_ctx|context_length)|.*max_(seq|source|target|text)\w*_len(gth)?",
     MOST_ALONG),
    (r".*_per_\w+", MOST_ACROSS),
    (r".*(layers?|depths?|blocks?|stages?)|.*(hidden|inner)_(groups?|group_num)", MOST_IN_A_ROW),
    (r".*(experts?|heads?|labels|codebooks?|quantizers?|queries|buckets)|.*(d_model|d_ff|d_inner|d_kv|d_state|dim_ff)"
     r"|(n|d|embed|conv|model|emb)_(embd|embed|inner|dims?)|(.*_)?dim"
     r"|.*(hidden|intermediate|embed|embedding|ffn?|feed_?forward|inner|mlp|expert|head|kv|conv|state|kernel|patch|image"
     r"|img|codebook|projection)_(sizes?|dims?|channels)", MOST_ACROSS),
)  # fmt: skip
"""(fields whose whole name matches, the most of each); the first that matches. Others say no size: of what no
architecture reads, a file may say what it likes."""

NO_SIZES = r".*_(ids?|idxs?|index|indices|indexes)|(model_)?max_length"
"""Fields that look like a size: ids, and what generation or a tokenizer takes for "no bound"."""

STACKS = r"(num|n|encoder|decoder)_(hidden_|encoder_|decoder_)?layers?"
"""The depth of a stack, which is never below 0; other names of layers may count from the end."""


def beyond(values: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """The first number of a configuration that no model has: its field, what was found and expected. None: no such."""
    for name, number in whole_numbers(values):
        last = name.rpartition(".")[2]
        most = next((most for pattern, most in LIMITS if re.fullmatch(pattern, last)), None)
        if most is None or re.fullmatch(NO_SIZES, last):
            continue
        least = 0 if re.fullmatch(STACKS, last) else -most
        if not least <= number <= most:
            return name, shown(number), f"a number from {max(least, 0)} to {most}"
    return None


def whole_numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """(field, number) of each whole number, in lists and in parts too: `vision_config.hidden_size`."""
    for name, value in values.items():
        if name == "label2id":  # its names are a user's
            continue
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", number) for inner, number in whole_numbers(value))
        elif isinstance(value, list | tuple):
            yield from _in_list(str(name), value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(name), value


def _in_list(name: str, values: list[Any] | tuple[Any, ...]) -> Iterator[tuple[str, int]]:
    """Those of a list (`depths`, `conv_kernel`) under the list's name, and those of parts in it."""
    for value in values:
        if isinstance(value, Mapping):
            yield from whole_numbers({name: value})
        elif isinstance(value, list | tuple):
            yield from _in_list(name, value)
        else:
            yield from whole_numbers({name: value})
