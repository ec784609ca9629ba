"""Texts that are tokenized ahead, many in one call: what a tokenizer makes of each is at hand when it is asked for.

A call costs a third of what it does for a short text, and calls of one text use one core. What is handed out is what a
call of its own would give, to the last offset; nothing is kept beyond the block of rows that it was read for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

Text = tuple[str, str | None]
"""A text and the one beside it, if there is any."""

Options = tuple[tuple[str, Any], ...]

Made = tuple[dict[str, list[Any]], Any]
"""The values of a `BatchEncoding`, and the `tokenizers.Encoding` that they are of."""

_ready: WeakKeyDictionary[Any, dict[tuple[Text, Options], Made]] = WeakKeyDictionary()
"""Of each tokenizer what was made of texts, until it has been handed out."""


def tokenized(tokenizer: Any, text: str, pair: str | None, options: Mapping[str, Any]) -> Any | None:
    """What was made ahead of a text with these options of the call, as a `BatchEncoding`; None where nothing was."""
    ready = _ready.get(tokenizer)
    found = ready.get(((text, pair or None), _hashable(options))) if ready else None
    if found is None:
        return None
    from transformers import BatchEncoding

    values, encoding = found
    return BatchEncoding({name: list(value) for name, value in values.items()}, [encoding])


@contextmanager
def tokenizing(tokenizer: Any, texts: Sequence[Text], options: Mapping[str, Any], *, target: bool) -> Iterator[None]:
    """Within: `tokenized` knows these texts. `target`: they are read as `text_target` is.

    A tokenizer in Python, which reads one text after the other anyway, reads nothing ahead; nor do options with which
    a text has several encodings.
    """
    known = dict[tuple[Text, Options], Made]()
    if getattr(tokenizer, "is_fast", False) and not options.get("return_overflowing_tokens"):
        asked = _hashable({**options, "text_target": True} if target else options)
        for several in _alike(texts):
            known |= {(text, asked): made for text, made in _made(tokenizer, several, options, target=target)}
    outer = _ready.get(tokenizer, {})
    _ready[tokenizer] = {**outer, **known}
    try:
        yield
    finally:
        _ready[tokenizer] = outer


def _alike(texts: Sequence[Text]) -> Iterator[list[Text]]:
    """The texts that stand alone, and those that stand beside another, each once; an empty one beside it is none."""
    unique = sorted({(text, pair or None) for text, pair in texts}, key=lambda text: text[1] is None)
    return (list(group) for _, group in groupby(unique, key=lambda text: text[1] is None))


def _made(
    tokenizer: Any, texts: Sequence[Text], options: Mapping[str, Any], *, target: bool
) -> Iterator[tuple[Text, Made]]:
    several = [text for text, _ in texts]
    pairs = [pair for _, pair in texts] if texts[0][1] is not None else None
    made = tokenizer(text_target=several, **options) if target else tokenizer(several, pairs, **options)
    for text, encoding, *values in zip(texts, made.encodings, *made.data.values(), strict=True):
        yield text, (dict(zip(made.data, values, strict=True)), encoding)


def _hashable(options: Mapping[str, Any]) -> Options:
    return tuple(sorted(options.items()))
