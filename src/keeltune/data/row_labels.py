"""The labels of single rows: what a row holds, under which names, and the fault of one that is no known name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from keeltune.data.dataset import Row, RowView, take
from keeltune.data.row_problems import Affected, RowProblem, affected, own_name
from keeltune.utils.errors import Problem, name_list, nearest, shown
from keeltune.utils.names import plain_name


class LabelCodes(dict[Any, int]):
    """The numbers of the values that a column of labels has, from 0, as they come; a list is a tuple here, None is no
    label."""

    def __missing__(self, value: Any) -> int:
        self[value] = code = len(self)
        return code

    def of(self, values: Sequence[Any]) -> np.ndarray:
        """Each value's number, [rows]."""
        if list in set(map(type, values)):
            values = [tuple(value) if type(value) is list else value for value in values]
        return np.array([self[value] for value in values], dtype=np.int32)


def label_codes(rows: Sequence[Row], field: str = "label") -> tuple[np.ndarray, Sequence[Any]]:
    """Which label each row has in a column, as an index [rows] into the different ones (`LabelCodes`)."""
    if isinstance(rows, RowView):
        return rows.label_codes(field)
    known = LabelCodes()
    codes = known.of([row.fields.get(field) for row in rows])
    return codes, list(known)


def apply_label_map(rows: Sequence[Row], mapping: Mapping[Any, Any]) -> tuple[Sequence[Row], list[Problem]]:
    """The rows under the model's names, after a `data.labels` that maps names in the data to names of the model.

    A label that is one of the model's names already stays. A row with any other label is left out, with a problem.
    Keys do not change: they are those of the data as it is written.
    """
    names = {plain_name(str(in_data)): plain_name(str(in_model)) for in_data, in_model in mapping.items()}
    known = {name: name for name in names.values()} | names
    codes, values = label_codes(rows)
    unknown = [[label for label in labels_in(value) if label not in known] for value in values]
    is_known = np.array([not labels for labels in unknown], dtype=bool)[codes]
    strange = np.flatnonzero(~is_known)
    problems: list[Problem] = [
        unknown_label(row, "label", label, tuple(names), "add it to data.labels, or correct it")
        for code, row in zip(codes[strange].tolist(), take(rows, strange), strict=True)
        for label in unknown[code]
    ]
    mapped = [tuple(dict.fromkeys(known.get(label, "") for label in labels_in(value))) for value in values]
    new = [labels[0] if type(value) is str else labels for value, labels in zip(values, mapped, strict=True)]
    return _relabelled(take(rows, np.flatnonzero(is_known)), codes[is_known], new), problems


def _relabelled(rows: Sequence[Row], codes: np.ndarray, labels: Sequence[Any]) -> Sequence[Row]:
    """The rows with these labels in place of those that `label_codes` lists."""
    if isinstance(rows, RowView):
        return rows.with_labels(labels)
    new = [list(label) if type(label) is tuple else label for label in labels]
    return [
        replace(row, fields=row.fields | {"label": new[code]}) for row, code in zip(rows, codes.tolist(), strict=True)
    ]


def row_labels(row: Row, field: str = "label") -> list[str]:
    """The row's labels, one or several; none where it has no label."""
    return labels_in(row.fields.get(field))


def labels_in(value: Any) -> list[str]:
    """The labels of a row with this value in its column of labels: one or several; none where it has none."""
    return [value] if isinstance(value, str) else list(value or ())


def label_counts(rows: Sequence[Row], field: str = "label") -> Counter[str]:
    """How many rows have each label of a column."""
    codes, values = label_codes(rows, field)
    counts: Counter[str] = Counter()
    for value, times in zip(values, np.bincount(codes, minlength=len(values)).tolist(), strict=True):
        for label in labels_in(value) if times else ():
            counts[label] += times
    return counts


def with_labels(
    rows: Sequence[Row], names: Collection[str], labels_of: Callable[[Row], Sequence[str]], field: str
) -> dict[str, Affected]:
    """The rows of each of these labels that rows have. `labels_of`: `row_labels`, where they are the column `field`."""
    wanted = set(names)
    indices_of: dict[str, list[int]] = defaultdict(list)
    if labels_of is row_labels:
        codes, values = label_codes(rows, field)
        order = np.argsort(codes, kind="stable")
        borders = np.searchsorted(codes[order], np.arange(len(values) + 1))
        for code, value in enumerate(values):
            for label in set(labels_in(value)) & wanted:
                indices_of[label] += order[borders[code] : borders[code + 1]].tolist()
    else:
        for i, row in enumerate(rows if names else ()):
            for label in set(labels_of(row)) & wanted:
                indices_of[label].append(i)
    return {label: affected(rows, sorted(indices_of[label])) for label in names if indices_of[label]}


def unknown_label(row: Row, field: str, label: str, names: tuple[str, ...], fix: str) -> RowProblem:
    """The fault of a row with a label that is none of `names`."""
    where, (found, expected) = f"{row.file}:{row.line}", _known_labels(label, names)
    return RowProblem(
        where, field, found, expected, fix, "unknown label", file=row.file, line=row.line, id=own_name(row.fields)
    )


@lru_cache(maxsize=1000)  # a wrong label seldom comes alone, and a search among 150 names takes milliseconds
def _known_labels(label: str, names: tuple[str, ...]) -> tuple[str, str]:
    return shown(label) + nearest(label, names), f"one of the labels {name_list(names)}"
