"""A special token that is written in a text is text: no row can end a sequence, open a turn or stand for a picture.

Tokenizers read `</s>` or `<image>` in a text as the token of that name, and models obey it: BART's classifier counts
ends, a decoder stops, a picture's place wants a picture. Most tokenizers cut the name into pieces when asked to. A
Unigram or a whole-word vocabulary holds it as a piece of its own: there its first letter becomes a look-alike, so that
offsets in the text stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

from keeltune.tasks.common.tokens_ahead import Text, tokenized, tokenizing

LOOKALIKE = "‹"
"""U+2039 for the first letter of a special token's name: no Unicode form turns it back into "<"."""

_names: WeakKeyDictionary[Any, dict[str, bool]] = WeakKeyDictionary()
"""Of each tokenizer the names of its control tokens, and whether it reads one even where asked to cut it."""


def written_in(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """The names of control tokens that stand in some text."""
    names = _control_names(tokenizer)
    starts = {name[:2] for name in names}  # of Llama 3's 256 names there is one
    found = {name for text in texts if any(start in text for start in starts) for name in names if name in text}
    return sorted(found)


def control_names(tokenizer: Any) -> list[str]:
    """The names that `written_in` looks for."""
    return list(_control_names(tokenizer))


def inert(tokenizer: Any, text: str) -> str:
    """A text for a template whose own special tokens are read: the names of control tokens in it mean nothing."""
    for name in written_in(tokenizer, [text]):
        text = text.replace(name, LOOKALIKE + name[1:])
    return text


def uncut(tokenizer: Any, text: str) -> str:
    """The text with a look-alike for each name that this tokenizer would not cut into pieces, though asked to."""
    for name in written_in(tokenizer, [text]):
        if _control_names(tokenizer)[name]:
            text = text.replace(name, LOOKALIKE + name[1:])
    return text


def encode_text(tokenizer: Any, text: str, pair: str | None = None, **options: Any) -> Any:
    """`tokenizer(text, pair)`, the names of control tokens in the texts read as text.

    The special tokens that the tokenizer puts around texts are as ever. Only where there is such a name: a tokenizer in
    Python that splits special tokens cuts other added tokens too.
    """
    if (made := tokenized(tokenizer, text, pair, options)) is not None:
        return made
    if written_in(tokenizer, [text, pair or ""]):
        options["split_special_tokens"] = True
        text, pair = uncut(tokenizer, text), None if pair is None else uncut(tokenizer, pair)
    return tokenizer(text, pair, **options)


def encode_target(tokenizer: Any, text: str) -> Any:
    """`tokenizer(text_target=text)`, in the same way."""
    if (made := tokenized(tokenizer, text, None, {"text_target": True})) is not None:
        return made
    if not written_in(tokenizer, [text]):
        return tokenizer(text_target=text)
    return tokenizer(text_target=uncut(tokenizer, text), split_special_tokens=True)


def encoding_ahead(
    tokenizer: Any, texts: Sequence[Text], *, target: bool = False, **options: Any
) -> AbstractContextManager[None]:
    """Within: `encode_text` with these options (`target`: `encode_target`) has read these texts, or pairs, at once.

    Those with the name of a control token are read when they are asked for.
    """
    if written_in(tokenizer, ["\n".join(part for text in texts for part in text if part)]):
        texts = [text for text in texts if not written_in(tokenizer, [part for part in text if part])]
    return tokenizing(tokenizer, texts, options, target=target)


def _control_names(tokenizer: Any) -> dict[str, bool]:
    """The special tokens, but for those of an unknown word and between words, which command nothing."""
    if tokenizer not in _names:
        special = [str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special]
        plain = {tokenizer.unk_token, getattr(tokenizer, "word_delimiter_token", None)}
        named = {name for name in (*special, *tokenizer.all_special_tokens) if name.strip()} - plain
        _names[tokenizer] = {
            name: tokenizer.convert_tokens_to_ids(name)
            in tokenizer(name, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            for name in sorted(named)
        }
    return _names[tokenizer]
