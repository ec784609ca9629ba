"""A data set is a list of rows: what a row is, the identity of rows and of a data set, and shares of one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from keeltune.data.media import Media, Unreadable
from keeltune.utils.errors import Problem, UserError


@dataclass(frozen=True, slots=True)
class Row:
    """One row of data: `fields` by our names, the file's other columns beside them under their own.

    `line` counts from 1: the physical line where the row begins; in a JSON array, in Parquet and from the hub the
    element. `key` is the row's identity (`row_key`).
    """

    fields: dict[str, Any]
    file: str
    line: int
    key: str


def row_key(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    """SHA-256 of those of the columns `names` that are there, as canonical JSON.

    It does not depend on file, order, split or further columns.
    """
    known = {n: fields[n] for n in names if n in fields}
    plain = {n: value.digest if isinstance(value, Media) else value for n, value in known.items()}
    return hashlib.sha256(_canonical(plain).encode()).hexdigest()


_canonical = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


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


def subset(rows: int, limit: int | None) -> list[int]:
    """The indices of at most `limit` of so many rows, in order; always the same, torch's random state untouched."""
    shuffled = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    return sorted(shuffled[: limit or rows].tolist())


@contextmanager
def in_row(row: Row, column: str) -> Iterator[None]:
    """A picture or recording that cannot be read becomes a problem of its row."""
    try:
        yield
    except Unreadable as error:
        where, found = f"{row.file}:{row.line}", f"{row.fields[column]}: {error.found}"
        raise UserError(Problem(where, column, found, error.expected, error.fix, error.kind)) from error
