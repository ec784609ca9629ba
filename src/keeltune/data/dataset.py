"""A data set is a list of rows: what a row is, the identity of rows and of a data set, and shares of one."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from keeltune.data.media import Media, Unreadable
from keeltune.utils.digests import canonical
from keeltune.utils.errors import Problem, StateRefused, UserError


@dataclass(slots=True)
class Row:
    """One row of data: `fields` by our names, the file's other columns beside them under their own.

    `line` counts from 1: the physical line where the row begins; in a JSON array, in Parquet and from the hub the
    element. `key` is the row's identity (`row_key`). Nothing of it changes, as the type checker sees: a frozen class
    takes as long to make as its key.
    """

    fields: Final[dict[str, Any]]
    file: Final[str]
    line: Final[int]
    key: Final[str]


class Place(NamedTuple):
    """Where a row is: its file, and its number there."""

    file: str
    line: int


class RowView(Sequence[Row]):
    """Rows that are read again when they are asked for. What comparing them needs is at hand without that."""

    @abstractmethod
    def take(self, indices: np.ndarray) -> RowView:
        """The rows at these indices, in their order."""

    @abstractmethod
    def place(self, index: int) -> Place:
        """Where a row is."""

    @abstractmethod
    def input_hashes(self, names: Sequence[str]) -> np.ndarray:
        """As the function of this name."""

    @abstractmethod
    def label_codes(self, field: str) -> tuple[np.ndarray, Sequence[Any]]:
        """As `row_labels.label_codes`."""

    @abstractmethod
    def with_labels(self, values: Sequence[Any]) -> RowView:
        """The rows with another label for each of those that `label_codes` lists."""

    @abstractmethod
    def blocks(self, size: int, is_candidate: Callable[[bytes], bool]) -> Iterator[Sequence[Row]]:
        """As the function of this name."""


def row_key(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    """SHA-256 of those of the columns `names` that are there, as canonical JSON.

    It does not depend on file, order, split or further columns.
    """
    return content_key({name: fields[name] for name in names if name in fields})


def content_key(fields: Mapping[str, Any]) -> str:
    """`row_key` of fields that are all among its columns."""
    try:
        return hashlib.sha256(orjson.dumps(fields, option=_ONE_SPELLING)).hexdigest()
    except TypeError:
        return hashlib.sha256(_canonical(fields)).hexdigest()


def take(rows: Sequence[Row], indices: Sequence[int] | np.ndarray) -> Sequence[Row]:
    """The rows at these indices, in their order."""
    return rows.take(np.asarray(indices, dtype=np.int64)) if isinstance(rows, RowView) else [rows[i] for i in indices]


def without(rows: Sequence[Row], places: Collection[tuple[str, int]]) -> Sequence[Row]:
    """The rows without those that are at these places."""
    if not places:
        return rows
    return take(rows, [i for i in range(len(rows)) if place(rows, i) not in places])


def blocks(rows: Sequence[Row], size: int, is_candidate: Callable[[bytes], bool]) -> Iterator[Sequence[Row]]:
    """The rows in blocks of so many. Those that lie in a file are read only where their bytes are candidates."""
    if isinstance(rows, RowView):
        return rows.blocks(size, is_candidate)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def place(rows: Sequence[Row], index: int) -> Place:
    """Where a row is, which nothing is read again for."""
    if isinstance(rows, RowView):
        return rows.place(index)
    return Place(rows[index].file, rows[index].line)


def input_hashes(rows: Sequence[Row], names: Sequence[str]) -> np.ndarray:
    """64 bits of what a row is in the columns `names`, [rows]: equal where they are, a picture being its content.

    Of n rows that all differ, two have the same with probability n² / 2⁶⁵: a hundred-millionth for half a million.
    """
    if isinstance(rows, RowView):
        return rows.input_hashes(names)
    fields = [row.fields for row in rows]
    return hashes([[of_row.get(name) for of_row in fields] for name in names], len(rows))


def hashes(columns: Sequence[Sequence[Any]], rows: int) -> np.ndarray:
    """`input_hashes` of columns with the values of so many rows, None where a row has none."""
    if not columns:
        return np.zeros(rows, dtype=np.int64)
    return np.fromiter(map(hash, zip(*map(_comparable, columns), strict=True)), dtype=np.int64, count=rows)


def _comparable(values: Sequence[Any]) -> Sequence[Hashable]:
    """Texts as they are, which no canonical JSON of anything else can equal."""
    if set(map(type, values)) <= {str, type(None)}:
        return values
    values = [value.digest if type(value) is Media else value for value in values]
    return [value if type(value) is str or value is None else (_canonical(value),) for value in values]


_ONE_SPELLING = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS


def _canonical(value: Any) -> bytes:
    """JSON of which there is but one spelling; a picture's or recording's content in its place."""
    try:
        return orjson.dumps(value, option=_ONE_SPELLING)
    except TypeError:
        if isinstance(value, dict):
            value = {name: inner.digest if type(inner) is Media else inner for name, inner in value.items()}
        return canonical(value).encode()  # whole numbers beyond 64 bits too


def split_share(rows: Sequence[Row], share: float, seed: int) -> tuple[Sequence[Row], Sequence[Row]]:
    """`rows` as (train, validation), round(share · n) of them for validation, both in the order they had.

    A row's side depends on its key and the seed, not on the order. Equal rows stay on one side, and the share is exact
    but for them. Raises `UserError` where a side would be empty.
    """
    keys, of_row, copies = np.unique(_keys(rows), return_inverse=True, return_counts=True)
    order = np.argsort(_digests(f"{seed}:", keys), kind="stable")
    left = max(1, min(round(share * len(rows)), len(rows) - 1))
    chosen = np.searchsorted(np.cumsum(copies[order]), left) + 1
    if not 0 < share < 1 or not 0 < chosen < len(keys):
        found = f"a share of {share:g} of {len(rows)} rows, {len(keys)} of them different"
        expected = "a share between 0 and 1 that leaves a row on each side"
        fix = "give another share, more rows, or a file for validation"
        where = place(rows, 0).file if rows else ""
        raise UserError(Problem(where, "data.validation", found, expected, fix, kind="impossible share"))
    is_chosen = np.isin(of_row, order[:chosen])
    return take(rows, np.flatnonzero(~is_chosen)), take(rows, np.flatnonzero(is_chosen))


def nested_share(rows: Sequence[Row], share: float, strata: np.ndarray | None = None, seed: int = 0) -> Sequence[Row]:
    """round(share · n) of the rows, one at least, in the order they had; a smaller share's are among a larger one's.

    Of each stratum (`strata` [rows], such as its label's number) it holds as large a part, to within two rows: the
    k-th of a stratum's c rows, in an order drawn by the seed, stands at (k + u) / c of the way, u drawn once a stratum
    from [0, 1), and a share holds the rows that stand first. A stratum of one row is in a share as often as any row.
    """
    keys = _keys(rows)
    drawn = np.argsort(_digests(f"share:{seed}:", keys), kind="stable")
    if strata is not None and len(rows):
        drawn = drawn[np.argsort(strata[drawn], kind="stable")]
        _, firsts, counts = np.unique(strata[drawn], return_index=True, return_counts=True)
        offsets = _uniform(_digests(f"offset:{seed}:", keys[drawn[firsts]]))
        places = np.arange(len(rows)) - np.repeat(firsts - offsets, counts)
        drawn = drawn[np.argsort(places / np.repeat(counts, counts), kind="stable")]
    return take(rows, np.sort(drawn[: max(1, round(share * len(rows)))]))


def _uniform(digests: np.ndarray) -> np.ndarray:
    """Digests as numbers from [0, 1), uniform as they are."""
    return np.array([int(digest[:13], 16) / 16**13 for digest in digests.tolist()])


def _keys(rows: Sequence[Row]) -> np.ndarray:
    """The rows' keys, each of 64 bytes."""
    return np.fromiter((row.key for row in rows), dtype="S64", count=len(rows))


def _digests(before: str, keys: np.ndarray) -> np.ndarray:
    """SHA-256 of each key with a text before it: 64 hexadecimal digits, which sort as the digests do."""
    start = hashlib.sha256(before.encode())

    def digest(key: bytes) -> str:
        digest = start.copy()
        digest.update(key)
        return digest.hexdigest()

    return np.fromiter(map(digest, keys.tolist()), dtype="S64", count=len(keys))


def fingerprint(rows: Iterable[Row]) -> str:
    """SHA-256 over the rows' keys in their order: the identity of a data set as it is trained on."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.key.encode())
    return digest.hexdigest()


def contents_digest(rows: Iterable[Row]) -> str:
    """SHA-256 over all columns of the rows, in their order: also of those that are in no key."""
    digest = hashlib.sha256()
    for row in rows:
        content = _canonical(row.fields)
        digest.update(b"%b %d\n" % (row.key.encode(), len(content)))
        digest.update(content)
    return digest.hexdigest()


def spread(rows: Sequence[Row], limit: int | None) -> Sequence[Row]:
    """At most `limit` of the rows, in their order, spread evenly by chance; always the same."""
    return rows if limit is None or len(rows) <= limit else list(take(rows, subset(len(rows), limit)))


def subset(rows: int, limit: int | None) -> list[int]:
    """The indices of at most `limit` of so many rows, in order; always the same, torch's random state untouched."""
    import torch  # a second and a half, and looking at rows needs none of it

    shuffled = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    return sorted(shuffled[: limit or rows].tolist())


@contextmanager
def in_row(row: Row, column: str) -> Iterator[None]:
    """A picture or recording that cannot be read, or has been replaced, becomes a problem of its row."""
    try:
        yield
    except StateRefused as error:
        where = f"{row.file}:{row.line}"
        raise StateRefused([replace(problem, where=where, field=column) for problem in error.problems]) from None
    except Unreadable as error:
        where, found = f"{row.file}:{row.line}", f"{row.fields[column]}: {error.found}"
        raise UserError(Problem(where, column, found, error.expected, error.fix, error.kind)) from error
