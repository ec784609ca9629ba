"""Rows to examples, and what becomes of rows that cannot be encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from keeltune.data.dataset import Row
from keeltune.data.row_problems import RowProblem
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.task import Task
from keeltune.training.preparation.material import LEARNT, OLD, SCORED
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.messages import Message


def encode_splits(
    task: Task, rows: dict[str, list[Row]], old: Task | None = None
) -> tuple[dict[str, list[list[Example]]], list[RowProblem]]:
    """Each split's rows as examples; rows that this model cannot take leave `rows`, with their problems.

    `old` encodes the rows of a source domain that has labels of its own.
    """
    encoded: dict[str, list[list[Example]]] = {}
    problems: list[RowProblem] = []
    for name, split in rows.items():
        reader = old if old is not None and name in OLD else task
        rows[name], encoded[name], faulty = encode_rows(reader, split, partial(encode_row, reader, split=name))
        problems += faulty
    return encoded, problems


def encode_rows(
    task: Task, rows: Sequence[Row], encode: Callable[[Row], list[Example]]
) -> tuple[list[Row], list[list[Example]], list[RowProblem]]:
    """The rows that this model can take, their examples, and the problems of the others."""
    taken: list[Row] = []
    encoded: list[list[Example]] = []
    problems: list[RowProblem] = []
    for row in rows:
        found: list[Problem | Fault] = []
        examples: list[Example] = []
        try:
            examples = encode(row)
            found += task.row_faults(row, examples)
        except UserError as error:  # of this row alone, such as a recording too short to be heard
            found += error.problems
        problems += [row_problem(row, fault) for fault in found]
        if not found:
            taken.append(row)
            encoded.append(examples)
    return taken, encoded, problems


def row_problem(row: Row, fault: Fault | Problem) -> RowProblem:
    """A fault as a problem of its row."""
    place = f"{row.file}:{row.line}"
    return RowProblem(
        place, fault.field, fault.found, fault.expected, fault.fix, fault.kind, file=row.file, line=row.line
    )


def encode_row(task: Task, row: Row, split: str) -> list[Example]:
    """A row's examples, with the encodings that other readers of the same row need where it is trained on."""
    if split in SCORED:
        return task.encode_scored(row)
    return task.encode_for_all(row, labelled=split in LEARNT)


def field_of(split: str) -> str:
    """The recipe's field that names a split's file."""
    if split == "source":
        return "data.source.test"
    return f"data.source.{split.removeprefix('source_')}" if split.startswith("source_") else f"data.{split}"


def truncation_warning(split: str, cut: int, total: int, max_length: int | None, recipe: Recipe) -> Problem:
    template = "{cut} of {all} rows of {split} ({share:.1%}) are longer than {most} tokens and are cut"
    return Problem(
        recipe.where(field_of(split)),
        split,
        Message(template, cut=cut, all=total, split=Message(split), share=cut / total, most=max_length),
        Message("rows that fit"),
        Message("raise max_length if the model allows it, or shorten the texts; what is cut is not read"),
        severity="warning",
    )
