"""Examples that lie in a file (`example_file.py`), as the sequences that lists of examples are elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from keeltune.tasks.common.example import Example
from keeltune.tasks.common.example_file import ExampleTable


class StoredExamples(Sequence[Example]):
    """Some examples of a table. `anchored`: whether all of them carry D."""

    def __init__(self, table: ExampleTable, indices: range, anchored: bool = False):
        self.table, self.indices, self.anchored = table, indices, anchored

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> StoredExamples: ...

    def __getitem__(self, index: int | slice) -> Example | StoredExamples:
        if isinstance(index, slice):
            return StoredExamples(self.table, self.indices[index], self.anchored)
        example = self.table.example(self.indices[index])
        return replace(example, anchored=True) if self.anchored else example

    @property
    def lengths(self) -> np.ndarray:
        """Each example's length."""
        return self.table.lengths[np.asarray(self.indices, dtype=np.int64)]


class StoredRowExamples(Sequence[list[Example]]):
    """The examples of rows, row by row; those of a row lie together. `starts` [rows + 1]: where each row's begin."""

    def __init__(self, table: ExampleTable, starts: np.ndarray, rows: range | None = None):
        self.table, self.starts = table, starts
        self.rows = range(len(starts) - 1) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> list[Example]: ...

    @overload
    def __getitem__(self, index: slice) -> StoredRowExamples: ...

    def __getitem__(self, index: int | slice) -> list[Example] | StoredRowExamples:
        if isinstance(index, slice):
            return StoredRowExamples(self.table, self.starts, self.rows[index])
        row = self.rows[index]
        return [self.table.example(i) for i in range(self.starts[row], self.starts[row + 1])]

    @property
    def counts(self) -> list[int]:
        """How many examples each row has."""
        counts: list[int] = np.diff(self.starts)[np.asarray(self.rows, dtype=np.int64)].tolist()
        return counts

    @property
    def examples(self) -> Sequence[Example]:
        """All of them, one after the other."""
        if self.rows.step != 1:
            return [example for row in self for example in row]
        first, end = (int(self.starts[min(row, len(self.starts) - 1)]) for row in (self.rows.start, self.rows.stop))
        return StoredExamples(self.table, range(first, max(first, end)))


def flat(encoded: Sequence[Sequence[Example]]) -> Sequence[Example]:
    """The examples of rows, one after the other; those in a file stay there."""
    if isinstance(encoded, StoredRowExamples):
        return encoded.examples
    return [example for row in encoded for example in row]


def lengths_of(examples: Sequence[Example]) -> np.ndarray:
    """What the plan groups by, [examples]."""
    if isinstance(examples, StoredExamples):
        return examples.lengths.astype(np.int64)
    return np.array([example.length for example in examples], dtype=np.int64)


def anchored_as(examples: Sequence[Example], anchored: bool) -> Sequence[Example]:
    """The examples, of which all carry D, or none."""
    if isinstance(examples, StoredExamples):
        return StoredExamples(examples.table, examples.indices, anchored)
    return [replace(example, anchored=anchored) for example in examples]


def anchored_in(examples: Sequence[Example]) -> int:
    """How many of the examples carry D."""
    if isinstance(examples, StoredExamples):
        return len(examples) * examples.anchored
    return sum(example.anchored for example in examples)


def counts_of(encoded: Sequence[Sequence[Example]]) -> list[int]:
    """How many examples each row has."""
    if isinstance(encoded, StoredRowExamples):
        return encoded.counts
    return [len(row) for row in encoded]
