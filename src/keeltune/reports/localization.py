"""A page's language: what its English sentences are in it.

`locales/LANGUAGE.json` is all that a language needs: {"names": {group: {name: …}}, "sentences": {group: {English: …}}}.
The groups are for its readers. A sentence that is missing there stays English; a test finds those. `{metric}`, `{task}`
and `{kind}` stand where a space on either side is not needed, because a name may be Chinese or Latin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from keeltune.utils.messages import LOCALES, Message

NAMING = frozenset({"task", "method", "metric", "kind"})
"""The placeholders whose value is one of our names; any other value may be the user's own word, and stays as it is."""


class Translator:
    """Says sentences in one language: `say("{n} rows", n=3)`, and `say(message)` of one that knows its template.

    Names of tasks, methods, metrics, divergences and budgets are said in the language too: `say("accuracy")`, and where
    they are values of `NAMING`. What it does not know it says as it is.
    """

    def __init__(self, language: str, names: Mapping[str, str], sentences: Mapping[str, str]):
        self.language, self.names = language, names
        self.table = {**names, **sentences}

    def __call__(self, text: Any, **values: Any) -> str:
        message = Message(text, **values) if values else text
        if not isinstance(message, Message):
            return self.table.get(str(message), str(message))
        values = {name: self._value(name, value) for name, value in message.values.items()}
        return self.table.get(message.template, message.template).format(**values)

    def _value(self, name: str, value: Any) -> Any:
        if isinstance(value, Message):
            return self(value)
        return self.names.get(value, value) if name in NAMING else value


@cache
def translator(language: str) -> Translator:
    """The language's translator; that of English leaves every sentence as it is written."""
    file = LOCALES / f"{language}.json"
    if language == "en":
        return Translator("en", {}, {})
    tables = json.loads(file.read_text(encoding="utf-8"))
    names, sentences = (_flat(tables[part]) for part in ("names", "sentences"))
    return Translator(language, names, sentences)


def _flat(groups: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {english: text for group in groups.values() for english, text in group.items()}
