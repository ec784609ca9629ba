"""Rows that stay in their files: a few numbers are kept of each, and its line is read again when it is asked for.

So the memory that a data set takes hardly grows with it: 28 bytes a row. Rows that cannot be read from the middle of
their file (of a table or an array, or compressed) are held.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from keeltune.data.dataset import Place, Row, RowView, hashes
from keeltune.data.file_reader import Layout, RowBatch
from keeltune.data.row_labels import LabelCodes

TOGETHER = 1000
"""Rows that are read again at once."""

_KEPT = np.dtype([("number", "i4"), ("start", "i8"), ("part", "i4"), ("input", "i8"), ("label", "i4")])
"""Of each row: its number in its file; the byte at which it begins, or its index among the rows that are held; which
part it is of; `hashes` of its input; which of the labels it has."""


@dataclass(frozen=True)
class _Part:
    """Rows that were read with one layout; `held`: the rows themselves, where they cannot be read again."""

    layout: Layout
    held: list[Row] | None

    def read(self, kept: np.ndarray) -> Sequence[Row]:
        if self.held is None:
            return self.layout.read_at(kept["number"].tolist(), kept["start"].tolist())
        return [self.held[i] for i in kept["start"]]

    def may_hold(self, kept: np.ndarray, is_candidate: Callable[[bytes], bool]) -> bool:
        if self.held is not None:
            return True
        return is_candidate(self.layout.file.bytes_between(int(kept["start"].min()), int(kept["start"].max())))


@dataclass(frozen=True, eq=False)
class StoredRows(RowView):
    """Rows of which `_KEPT` is kept.

    inputs       the columns that make a row's input
    labels       what rows have in their column `label`; None where the task has no such column
    relabelled   whether these are other labels than the file's
    """

    kept: np.ndarray
    parts: Sequence[_Part]
    inputs: Sequence[str]
    labels: Sequence[Any] | None
    relabelled: bool = False

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> StoredRows: ...

    def __getitem__(self, index: int | slice) -> Row | StoredRows:
        if isinstance(index, slice):
            return replace(self, kept=self.kept[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return next(iter(self.take(np.array([index]))))

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), TOGETHER):
            for part, kept in _runs(self.kept[start : start + TOGETHER]):
                rows = self.parts[part].read(kept)
                yield from map(self._labelled, rows, kept["label"]) if self.relabelled else rows

    def _labelled(self, row: Row, code: int) -> Row:
        label = None if self.labels is None else self.labels[code]
        value = list(label) if isinstance(label, tuple) else label
        return row if value is None else replace(row, fields=row.fields | {"label": value})

    def take(self, indices: np.ndarray) -> StoredRows:
        return replace(self, kept=self.kept[indices])

    def place(self, index: int) -> Place:
        row = self.kept[index]
        return Place(self.parts[row["part"]].layout.file.log.file, int(row["number"]))

    def input_hashes(self, names: Sequence[str]) -> np.ndarray:
        assert list(names) == list(self.inputs), "hashes are made while rows are read"
        return np.ascontiguousarray(self.kept["input"])

    def label_codes(self, field: str) -> tuple[np.ndarray, Sequence[Any]]:
        if field != "label" or self.labels is None:
            return np.zeros(len(self), dtype=np.int32), [None]
        return np.ascontiguousarray(self.kept["label"]), self.labels

    def with_labels(self, values: Sequence[Any]) -> StoredRows:
        return replace(self, labels=values, relabelled=True)

    def blocks(self, size: int, is_candidate: Callable[[bytes], bool]) -> Iterator[Sequence[Row]]:
        for start in range(0, len(self), size):
            block = self[start : start + size]
            if any(self.parts[part].may_hold(kept, is_candidate) for part, kept in _runs(block.kept)):
                yield block


def _runs(kept: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of one part after the other, in the order that they have."""
    borders = [0, *(np.flatnonzero(np.diff(kept["part"])) + 1).tolist(), len(kept)]
    for first, end in itertools.pairwise(borders):
        yield int(kept["part"][first]), kept[first:end]


def stored(batches: Iterable[RowBatch], inputs: Sequence[str], *, has_label: bool) -> StoredRows:
    """The rows of these batches, none of which is kept. `has_label`: whether the task has a column `label`."""
    parts, tables, known = list[_Part](), list[np.ndarray](), LabelCodes()
    for batch in batches:
        is_held = batch.starts is None
        if not parts or parts[-1].layout is not batch.layout or (parts[-1].held is not None) != is_held:
            parts.append(_Part(batch.layout, [] if is_held else None))
        kept, held = np.empty(len(batch.numbers), dtype=_KEPT), parts[-1].held
        kept["number"], kept["part"] = batch.numbers, len(parts) - 1
        kept["input"] = hashes([batch.values(name) for name in inputs], len(kept))
        kept["label"] = known.of(batch.values("label")) if has_label else 0
        if held is None:
            kept["start"] = batch.starts
        else:
            kept["start"] = range(len(held), len(held) + len(kept))
            held += batch.rows()
        tables.append(kept)
    table = np.concatenate(tables or [np.empty(0, dtype=_KEPT)])
    return StoredRows(table, parts, inputs, list(known) if has_label else None)
