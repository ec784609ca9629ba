"""What is wrong with a row as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from keeltune.data.dataset import Row
from keeltune.utils.errors import Problem


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row as a whole, though each of its columns is sound."""

    field: str
    kind: str
    found: str
    expected: str
    fix: str


def other_targets(row: Row) -> Problem:
    """A row of which a reference's predictions are others than the student's."""
    return Problem(
        f"{row.file}:{row.line}",
        "reference",
        "a target that the reference's tokenizer cuts into other tokens than the student's",
        "the same tokens: each is a prediction of both",
        "leave the row out (bad_rows: skip), or take a reference that reads texts as the student does",
        kind="other tokens",
    )
