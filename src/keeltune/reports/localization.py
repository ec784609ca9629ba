"""A page's language: what its sentences are in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from keeltune.reports.chinese import CHINESE, NAMES
from keeltune.utils.messages import Message

Say = Callable[..., str]
"""A sentence in a page's language: of an English template and its values, or of a `Message`."""

NAMING = frozenset({"task", "method", "metric", "kind"})
"""The placeholders whose value is one of our names; any other value may be the user's own word, and stays as it is."""


@cache
def translator(language: str) -> Say:
    """`say("{n} rows", n=3)`, and `say(said)` of a sentence that knows what it was made of; other text as it is.

    Names of tasks, methods, metrics, divergences and budgets are said in the language too: `say("accuracy")`, and where
    they are values of `NAMING`.
    """
    names = NAMES if language == "zh" else {}
    table = names | CHINESE if language == "zh" else {}

    def value_of(name: str, value: Any) -> Any:
        if isinstance(value, Message):
            return say(value)
        return names.get(value, value) if name in NAMING else value

    def say(text: Any, **values: Any) -> str:
        if values:
            text = Message(text, **values)
        if not isinstance(text, Message):
            return table.get(str(text), str(text))
        inner = {name: value_of(name, value) for name, value in text.values.items()}
        return table.get(text.template, text.template).format(**inner)

    return say
