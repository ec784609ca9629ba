"""What is wrong with the rows, before training: unknown labels, rows that two splits share, answers that conflict.

Errors stop a run (`data.bad_rows: skip` leaves out the rows of those that belong to rows); warnings carry counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from keeltune.data.columns import Column
from keeltune.data.dataset import Row, input_hashes, take
from keeltune.data.row_labels import label_codes, label_counts, labels_in, row_labels, unknown_label, with_labels
from keeltune.data.row_problems import Affected, RowProblem, affected, locations, warning_about
from keeltune.utils.errors import Problem, name_list, shown
from keeltune.utils.messages import Message

TRAINED = {"train", "augmented", "unlabeled", "source_train", "source_unlabeled"}
"""The streams of training, which may share rows: an evaluation is spoiled by those that it shares with them."""

IMBALANCE = 100
"""Rows of the largest class for one of the smallest, beyond which there is a warning."""


def audit(
    splits: Mapping[str, Sequence[Row]],
    names: Sequence[str],
    columns: Sequence[Column],
    multi_label: bool,
    labels_of: Callable[[Row], Sequence[str]] | None = None,
) -> tuple[list[Problem], set[tuple[str, int]]]:
    """What is wrong with a run's rows as a whole, and the (file, line) of the rows that have an error.

    splits     "train", "validation", "test", "unlabeled", "source", …; a row without a label has none to be wrong
    names      the label names of the run
    columns    the task's columns: two rows are the same input where all columns but the label agree
    labels_of  a row's labels, where they are not its column `label`; one that no training row has is then a warning,
               as it can only be missed. A task without label names has none
    """
    in_column = labels_of is None
    labels_of = labels_of or row_labels
    field = next((column.name for column in columns if column.label), "label")
    problems: list[Problem] = []
    counts = {split: label_counts(rows, field) if in_column else Counter() for split, rows in splits.items()}
    for split, rows in splits.items():
        if not in_column:
            problems += _never_learnt(rows, names, field, labels_of)
        elif not counts[split].keys() <= set(names):
            problems += _outside(rows, names, field)
    bad = {(p.file, p.line) for p in problems if isinstance(p, RowProblem)}
    inputs = {split: input_keys(rows, columns) for split, rows in splits.items()}
    if names and in_column:
        problems += _classes(splits, counts, names, field, multi_label)
    problems += _shared(splits, inputs)
    for split, rows in splits.items():
        problems += _repeated(split, rows, inputs[split], field, labels_of if names else None)
    return problems, bad


def _outside(rows: Sequence[Row], names: Sequence[str], field: str) -> list[Problem]:
    known, listed = set(names), tuple(names)
    codes, values = label_codes(rows, field)
    unknown = [[label for label in labels_in(value) if label not in known] for value in values]
    strange = np.flatnonzero(np.array([bool(labels) for labels in unknown], dtype=bool)[codes])
    fix = "correct it, or list every label in data.labels"
    return [
        unknown_label(row, field, label, listed, fix)
        for code, row in zip(codes[strange].tolist(), take(rows, strange), strict=True)
        for label in unknown[code]
    ]


def _never_learnt(
    rows: Sequence[Row], names: Sequence[str], field: str, labels_of: Callable[[Row], Sequence[str]]
) -> list[Problem]:
    """Labels of evaluation rows that no training row has: they count as missed."""
    if not names:
        return []
    unknown = sorted({label for row in rows for label in labels_of(row)} - set(names))
    template = "{label} in {n} rows, in no training row: {places}"
    expected = Message("labels that can be learnt")
    fix = Message("add training rows with it; until then it counts as missed")
    return [
        warning_about(having, field, Message(template, label=shown(label), n=having.count, places=locations(having)),
                      expected, fix, "label never learnt")
        for label, having in with_labels(rows, unknown, labels_of, field).items()
    ]  # fmt: skip


def _classes(
    splits: Mapping[str, Sequence[Row]],
    seen_in: Mapping[str, Mapping[str, int]],
    names: Sequence[str],
    field: str,
    multi_label: bool,
) -> list[Problem]:
    """Too few classes to learn from, classes that a split lacks, and a strong imbalance."""
    problems: list[Problem] = []
    for split in ("train", "validation", "test"):
        seen = seen_in.get(split, {})
        counts = {name: seen[name] for name in names if name in seen}
        absent = [name for name in names if name not in seen]
        if not absent and len(counts) > 1 and max(counts.values()) <= IMBALANCE * min(counts.values()):
            continue
        labelled = _labelled(splits.get(split, ()), field)
        if not labelled.count:
            continue
        if split == "train" and len(counts) < (1 if multi_label else 2):
            found = f"one class only: {name_list(counts)} in {labelled.count} rows"
            fix = "add rows of another class, or name the column of the label under data.columns"
            problems.append(
                Problem(labelled.first[0].file, field, found, "rows of at least two classes", fix, "one class")
            )
        elif absent:
            template = "no row of {n} of {all} classes in {split}: {names}"
            found = Message(template, n=len(absent), all=len(names), split=Message(split), names=name_list(absent))
            fix = Message("add rows of them, or take them out of the labels")
            problems.append(
                warning_about(labelled, field, found, Message("rows of every class"), fix, "class without rows")
            )
        if split == "train" and counts and max(counts.values()) > IMBALANCE * min(counts.values()):
            most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
            template = '{many} rows of "{most}", {few} of "{least}"'
            found = Message(template, many=counts[most], most=most, few=counts[least], least=least)
            fix = Message("look at macro-F1, and consider data.class_weights: balanced")
            expected = Message("at most {n} rows for one of the rarest class", n=IMBALANCE)
            problems.append(warning_about(labelled, field, found, expected, fix, "imbalance"))
    return problems


def _labelled(rows: Sequence[Row], field: str) -> Affected:
    """The rows that have a label in this column, perhaps an empty list."""
    codes, values = label_codes(rows, field)
    return affected(rows, np.flatnonzero(np.array([value is not None for value in values], dtype=bool)[codes]))


def input_keys(rows: Sequence[Row], columns: Sequence[Column]) -> np.ndarray:
    """What each row is without its label, [rows] (`input_hashes`): equal ones are the same input."""
    return input_hashes(rows, [column.name for column in columns if not column.label])


def shared_rows(inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str, np.ndarray]]:
    """(one, other, indices of the rows of other whose input is in one too), by the inputs of all splits; two streams of
    training may share theirs."""
    for one, other in combinations(inputs, 2):
        if not {one, other} <= TRAINED:
            shared = np.flatnonzero(np.isin(inputs[other], inputs[one]))
            if len(shared):
                yield one, other, shared


def repeats(
    rows: Sequence[Row], inputs: np.ndarray, labels_of: Callable[[Row], Sequence[str]] | None, field: str = "label"
) -> tuple[np.ndarray, np.ndarray]:
    """The indices of (rows with the same input and different labels, rows that stand there already).

    Without `labels_of` nothing conflicts: a text may well have several translations.
    """
    ordered = np.sort(inputs)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(again):
        return again, again
    same = np.flatnonzero(np.isin(inputs, again))  # those rows whose input another one has
    _, first, group = np.unique(inputs[same], return_index=True, return_inverse=True)
    same = same[np.argsort(first[group], kind="stable")]  # group by group, as their first rows come
    _, first, group = np.unique(inputs[same], return_index=True, return_inverse=True)
    answers = _answers(take(rows, same), labels_of, field)
    differ = np.zeros(len(first), dtype=bool)
    differ[group[answers != answers[first][group]]] = True
    is_first = np.isin(np.arange(len(same)), first)
    conflicts = same[differ[group]] if labels_of else same[:0]
    return conflicts, same[~differ[group] & ~is_first]


def _answers(rows: Sequence[Row], labels_of: Callable[[Row], Sequence[str]] | None, field: str) -> np.ndarray:
    """Numbers that are equal where rows have the same answer, [rows]: the same labels, or all the same."""
    numbers: dict[Hashable, int] = {}
    if labels_of is row_labels:
        codes, values = label_codes(rows, field)
        of_value = [numbers.setdefault(frozenset(labels_in(value)), len(numbers)) for value in values]
        return np.array(of_value, dtype=np.int64)[codes]
    answers = (frozenset(labels_of(row)) if labels_of else row.key for row in rows)
    return np.array([numbers.setdefault(answer, len(numbers)) for answer in answers], dtype=np.int64)


def _shared(splits: Mapping[str, Sequence[Row]], inputs: Mapping[str, np.ndarray]) -> list[Problem]:
    """Inputs that are in two splits: an evaluation is spoiled by it."""
    warnings: list[Problem] = []
    for one, other, indices in shared_rows(inputs):
        names = {"one": Message(one), "other": Message(other)}
        shared = affected(splits[other], indices)
        template = "{n} of {all} rows of {other} are in {one} too: {places}"
        found = Message(template, n=shared.count, all=len(splits[other]), places=locations(shared), **names)
        fix = Message("take them out of {one} or of {other}: a row that was trained on does not test", **names)
        expected = Message("no input in two splits")
        warnings.append(warning_about(shared, "", found, expected, fix, f"rows shared by {one}, {other}"))
    return warnings


def _repeated(
    split: str,
    rows: Sequence[Row],
    inputs: np.ndarray,
    field: str,
    labels_of: Callable[[Row], Sequence[str]] | None,
) -> list[Problem]:
    """The same input with different answers; and, in training, the same row several times."""
    conflicts, copies = (affected(rows, indices) for indices in repeats(rows, inputs, labels_of, field))
    warnings: list[Problem] = []

    def warn(affected: Affected, template: str, field: str, expected: str, fix: str, kind: str) -> None:
        found = Message(template, n=affected.count, split=Message(split), places=locations(affected))
        warnings.append(warning_about(affected, field, found, expected, fix, kind))

    if conflicts.count:
        template = "{n} rows of {split} share an input but not the label: {places}"
        expected, fix = Message("one answer for one input"), Message("keep those with the right label")
        warn(conflicts, template, field, expected, fix, f"conflicts in {split}")
    if copies.count and split == "train":
        template = "{n} rows of {split} are repeats: {places}"
        expected, fix = Message("each row once"), Message("delete them, unless they should weigh more")
        warn(copies, template, "", expected, fix, "repeated rows")
    return warnings
