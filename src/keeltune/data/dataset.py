"""A data set is a list of rows: what a row is, the identity of rows and of a data set, and shares of one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
import torch

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


def contents(rows: Sequence[Row], names: Sequence[str]) -> list[tuple[Hashable, ...]]:
    """What of each row is equal where its columns `names` are: texts as they are, anything else as canonical JSON."""
    fields = [row.fields for row in rows]
    columns = [[of_row.get(name) for of_row in fields] for name in names]
    return list(zip(*map(_comparable, columns), strict=True)) if columns else [()] * len(rows)


def _comparable(values: list[Any]) -> list[Hashable]:
    if set(map(type, values)) <= {str, type(None)}:
        return values
    values = [value.digest if type(value) is Media else value for value in values]
    return [value if type(value) is str or value is None else _canonical(value) for value in values]


_ONE_SPELLING = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS


def _canonical(value: Any) -> bytes:
    """JSON of which there is but one spelling; a picture's or recording's content in its place."""
    try:
        return orjson.dumps(value, option=_ONE_SPELLING)
    except TypeError:
        if isinstance(value, dict):
            value = {name: inner.digest if type(inner) is Media else inner for name, inner in value.items()}
        return canonical(value).encode()  # whole numbers beyond 64 bits too


def split_share(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """`rows` as (train, validation), round(share · n) of them for validation, both in the order they had.

    A row's side depends on its key and the seed, not on the order. Equal rows stay on one side, and the share is exact
    but for them. Raises `UserError` where a side would be empty.
    """
    copies = Counter(row.key for row in rows)
    left = max(1, min(round(share * len(rows)), len(rows) - 1))
    chosen: set[str] = set()
    for key in sorted(copies, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest()):
        if left <= 0:
            break
        chosen.add(key)
        left -= copies[key]
    if not 0 < share < 1 or not 0 < len(chosen) < len(copies):
        found = f"a share of {share:g} of {len(rows)} rows, {len(copies)} of them different"
        expected = "a share between 0 and 1 that leaves a row on each side"
        fix = "give another share, more rows, or a file for validation"
        where = rows[0].file if rows else ""
        raise UserError(Problem(where, "data.validation", found, expected, fix, kind="impossible share"))
    return [row for row in rows if row.key not in chosen], [row for row in rows if row.key in chosen]


def nested_share(rows: Sequence[Row], share: float) -> list[Row]:
    """A share of the rows (one at least), in the order they had; a smaller share's rows are among a larger one's."""
    ranked = sorted(rows, key=lambda row: hashlib.sha256(f"share:{row.key}".encode()).digest())
    kept = {id(row) for row in ranked[: max(1, round(share * len(rows)))]}
    return [row for row in rows if id(row) in kept]


def fingerprint(rows: Iterable[Row]) -> str:
    """SHA-256 over the rows' keys in their order: the identity of a data set as it is trained on."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.key.encode())
    return digest.hexdigest()


def spread(rows: Sequence[Row], limit: int | None) -> Sequence[Row]:
    """At most `limit` of the rows, in their order, spread evenly by chance; always the same."""
    return rows if limit is None or len(rows) <= limit else [rows[i] for i in subset(len(rows), limit)]


def subset(rows: int, limit: int | None) -> list[int]:
    """The indices of at most `limit` of so many rows, in order; always the same, torch's random state untouched."""
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
