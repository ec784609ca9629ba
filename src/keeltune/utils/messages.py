"""Sentences that know what they were made of, so that a page can say them in another language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Message(str):
    """`template.format(**values)`, and both; a value may be a `Said` itself."""

    template: str
    values: dict[str, Any]

    def __new__(cls, template: str, **values: Any) -> Message:
        made = super().__new__(cls, template.format(**values))
        made.template, made.values = template, values
        return made

    def __deepcopy__(self, memo: Any) -> Message:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


def joined(parts: Sequence[str], between: str = "") -> Message:
    """Several sentences as one."""
    template = "{between}".join(f"{{p{i}}}" for i in range(len(parts)))
    return Message(template, between=Message(between), **{f"p{i}": p for i, p in enumerate(parts)})
