"""Sentences that know what they were made of, so that a page can say them in another language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LOCALES = Path(__file__).parents[1] / "reports" / "locales"
"""One file a language, LANGUAGE.json, with what the pages say in it (read by `reports.localization`)."""


def languages() -> tuple[str, ...]:
    """What a page can be written in: English, and every language that has a file."""
    return ("en", *sorted(file.stem for file in LOCALES.glob("*.json")))


class Message(str):
    """`template.format(**values)`, and both; a value may be a `Message` itself."""

    template: str
    values: dict[str, Any]

    def __new__(cls, template: str, **values: Any) -> Message:
        message = super().__new__(cls, template.format(**values))
        message.template, message.values = template, values
        return message

    def changed(self, change: Callable[[str], str]) -> Message:
        """The same sentence, its texts changed."""
        texts = {n: v.changed(change) if isinstance(v, Message) else v for n, v in self.values.items()}
        return Message(self.template, **{n: change(v) if type(v) is str else v for n, v in texts.items()})

    def __deepcopy__(self, memo: Any) -> Message:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


def joined(parts: Sequence[str], between: str = "") -> Message:
    """Several sentences as one."""
    template = "{between}".join(f"{{p{i}}}" for i in range(len(parts)))
    return Message(template, between=Message(between), **{f"p{i}": p for i, p in enumerate(parts)})
