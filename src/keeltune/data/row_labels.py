"""The labels of single rows: what a row holds, under which names, and the fault of one that is no known name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from keeltune.data.dataset import Row
from keeltune.data.row_problems import RowProblem, own_name
from keeltune.utils.errors import Problem, name_list, nearest, shown
from keeltune.utils.names import plain_name


def apply_label_map(rows: Sequence[Row], mapping: Mapping[Any, Any]) -> tuple[list[Row], list[Problem]]:
    """The rows under the model's names, after a `data.labels` that maps names in the data to names of the model.

    A label that is one of the model's names already stays. A row with any other label is left out, with a problem.
    Keys do not change: they are those of the data as it is written.
    """
    names = {plain_name(str(in_data)): plain_name(str(in_model)) for in_data, in_model in mapping.items()}
    known = {name: name for name in names.values()} | names
    mapped: list[Row] = []
    problems: list[Problem] = []
    for row in rows:
        labels = row_labels(row)
        unknown = [label for label in labels if label not in known]
        problems += [
            unknown_label(row, "label", label, tuple(names), "add it to data.labels, or correct it")
            for label in unknown
        ]
        if not unknown:
            new = list(dict.fromkeys(known[label] for label in labels))
            label = new[0] if isinstance(row.fields["label"], str) else new
            mapped.append(replace(row, fields=row.fields | {"label": label}))
    return mapped, problems


def row_labels(row: Row, field: str = "label") -> list[str]:
    """The row's labels, one or several; none where it has no label."""
    value = row.fields.get(field, [])
    return [value] if isinstance(value, str) else list(value)


def label_counts(rows: Sequence[Row], field: str = "label") -> Counter[str]:
    """How many rows have each label of a column."""
    values = [row.fields[field] for row in rows if field in row.fields]
    if set(map(type, values)) <= {str}:
        return Counter(values)
    return Counter(label for value in values for label in ([value] if isinstance(value, str) else value))


def unknown_label(row: Row, field: str, label: str, names: tuple[str, ...], fix: str) -> RowProblem:
    """The fault of a row with a label that is none of `names`."""
    where, (found, expected) = f"{row.file}:{row.line}", _known_labels(label, names)
    return RowProblem(
        where, field, found, expected, fix, "unknown label", file=row.file, line=row.line, id=own_name(row.fields)
    )


@lru_cache(maxsize=1000)  # a wrong label seldom comes alone, and a search among 150 names takes milliseconds
def _known_labels(label: str, names: tuple[str, ...]) -> tuple[str, str]:
    return shown(label) + nearest(label, names), f"one of the labels {name_list(names)}"
