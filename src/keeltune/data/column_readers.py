"""A column's values as they are read: one by one, or those of many rows together, which is several times as fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from keeltune.data.columns import KINDS, MEDIA, STRUCTURED, Column, extra, read_cell, read_media
from keeltune.data.file_formats.file_format import FileLog
from keeltune.data.text_values import read_texts, whole_characters


class ColumnReader:
    """From what a file holds in a column to what a row holds.

    `one`: of a row, or `Refused`; `all`: of several rows, `Refused` where one of them has to be looked at alone.
    """

    def __init__(self, column: Column, log: FileLog):
        check, folder = KINDS[column.kind], Path(log.file).parent
        self._check = check
        self.one: Callable[[Any], Any] = check
        self.all: Callable[[Sequence[Any]], Sequence[Any]] = self._all
        if column.kind == "text":
            self.all = read_texts
        elif column.kind == "label":
            self._known: dict[type, _Known] = {kind: _Known(check) for kind in (str, int)}
            self.one, self.all = self._label, self._labels
        elif column.kind in MEDIA:
            self.one = lambda value: read_media(check(value), folder)
        elif log.cells_are_text and column.kind in STRUCTURED:
            self.one = lambda value: check(read_cell(value))
        if column.names:
            names, given = dict(column.names), self.one
            self.one = lambda value: [names.get(tag, tag) for tag in given(value)]

    def _all(self, values: Sequence[Any]) -> Sequence[Any]:
        read = [self.one(value) for value in values]
        try:
            orjson.dumps(read)
        except TypeError:  # half a character; or a picture, or a number of more than 64 bits
            for value in read:
                extra(value)
        return read

    def _label(self, value: Any) -> str:
        return self._known[str][value] if type(value) is str else self._check(value)

    def _labels(self, values: Sequence[Any]) -> Sequence[str]:
        kinds = set(map(type, values))
        known = self._known.get(kinds.pop()) if len(kinds) == 1 else None
        return [self._check(value) for value in values] if known is None else [known[value] for value in values]


class _Known(dict[Any, str]):
    """Labels by what files hold, each checked once: they repeat, and rows then share one text in memory."""

    def __init__(self, check: Callable[[Any], str]):
        super().__init__()
        self.check = check

    def __missing__(self, value: Any) -> str:
        self[value] = label = self.check(value)
        return label


def read_extras(values: Sequence[Any]) -> Sequence[Any]:
    """The values of a column that travels along, as `extra` has them, looked at together."""
    kinds = set(map(type, values))
    if kinds <= _PLAIN:
        if str in kinds:
            whole_characters("".join(value for value in values if type(value) is str))
        return values
    return [extra(value) for value in values]


_PLAIN = frozenset((str, int, bool, type(None)))
