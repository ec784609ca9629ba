"""A page's language: what its sentences are in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keeltune.reports.chinese import CHINESE
from keeltune.utils.messages import Message

Say = Callable[..., str]
"""A sentence in a page's language: of an English template and its values, or of a `Said`."""


def translator(language: str) -> Say:
    """`say("{n} rows", n=3)`, and `say(said)` of a sentence that knows what it was made of; other text as it is."""
    table = CHINESE if language == "zh" else {}

    def say(text: Any, **values: Any) -> str:
        if values:
            text = Message(text, **values)
        if not isinstance(text, Message):
            return table.get(str(text), str(text))
        inner = {name: say(value) if isinstance(value, Message) else value for name, value in text.values.items()}
        return table.get(text.template, text.template).format(**inner)

    return say
