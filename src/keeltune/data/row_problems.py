"""Faults of rows: one row's, and a warning about many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeltune.data.dataset import Row
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


def warning_about(rows: Sequence[Row], field: str, found: str, expected: str, fix: str, kind: str) -> Problem:
    """A warning about many rows, placed at the first of them. Not a row's problem: nothing is to be left out."""
    return Problem(f"{rows[0].file}:{rows[0].line}", field, found, expected, fix, kind, severity="warning")


def locations(rows: Sequence[Row]) -> str:
    """Where the first rows are."""
    return ", ".join(f"{row.file}:{row.line}" for row in rows[:3]) + (", …" if len(rows) > 3 else "")
