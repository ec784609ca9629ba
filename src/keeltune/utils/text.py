"""Words of a text as metrics count them. Chinese is split by character, as it has no spaces."""

from __future__ import annotations

import re

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ebef"

HAN = re.compile(f"[{_HAN}]")
"""Chinese characters: the unified ideographs and their extensions."""

WORD = re.compile(rf"[{_HAN}]|[^\s{_HAN}]+")
"""What `apart` makes a word: a Chinese character, or letters and marks between spaces and such characters."""


def is_chinese(text: str) -> bool:
    """Whether at least a third of a text's letters are Chinese characters."""
    letters = [c for c in text if c.isalpha()]
    return bool(letters) and 3 * len(HAN.findall(text)) >= len(letters)


def apart(text: str) -> str:
    """The text with a space on both sides of each Chinese character."""
    return HAN.sub(lambda match: f" {match.group()} ", text)


def word_places(text: str) -> list[tuple[int, int]]:
    """Where the words of a text are, [start, end) in characters; those of `apart(text).split()`."""
    return [match.span() for match in WORD.finditer(text)]
