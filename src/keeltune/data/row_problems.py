"""Faults of rows: one row's, and a warning about many of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keeltune.data.dataset import Place, Row, place
from keeltune.utils.errors import Problem, brief


@dataclass(frozen=True)
class RowProblem(Problem):
    """A fault of one row, which `data.bad_rows: skip` may leave out. Any other `Problem` stands for a whole file.

    `id`: what the row calls itself in a column of that name, where it was read that far.
    """

    file: str = ""
    line: int = 0
    id: str | None = None


def own_name(values: Mapping[str, Any]) -> str | None:
    """What a row calls itself, as a message may show it."""
    name = values.get("id")
    return brief(str(name)) if isinstance(name, str | int) else None


def is_row_problem(problem: Problem) -> bool:
    """Whether a fault is one row's, so that `bad_rows: skip` can leave that row out; any other stands for a file."""
    return isinstance(problem, RowProblem)


@dataclass(frozen=True)
class Affected:
    """The rows that a warning is about: how many, and where the first of them are."""

    count: int
    first: Sequence[Place]


def affected(rows: Sequence[Row], indices: Sequence[int] | np.ndarray | None = None) -> Affected:
    """All of the rows, or those at the indices."""
    chosen = range(len(rows)) if indices is None else indices
    return Affected(len(chosen), [place(rows, int(i)) for i in chosen[: LISTED + 1]])


def joined(groups: Iterable[Affected]) -> Affected:
    """Several of them as one."""
    groups = list(groups)
    first = [place for group in groups for place in group.first]
    return Affected(sum(group.count for group in groups), first[: LISTED + 1])


LISTED = 3
"""Rows of a warning that are named."""


def warning_about(rows: Affected, field: str, found: str, expected: str, fix: str, kind: str) -> Problem:
    """A warning about many rows, placed at the first of them. Not a row's problem: nothing is to be left out."""
    return Problem(f"{rows.first[0].file}:{rows.first[0].line}", field, found, expected, fix, kind, severity="warning")


def locations(rows: Affected) -> str:
    """Where the first rows are."""
    return ", ".join(f"{at.file}:{at.line}" for at in rows.first[:LISTED]) + (", …" if rows.count > LISTED else "")
