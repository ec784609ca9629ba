"""What is wrong with the rows, before training: labels no one knows, rows that two splits share, answers that conflict.

Errors stop a run (`data.bad_rows: skip` leaves out the rows of those that belong to rows); warnings carry counts.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from typing import Any

from keeltune.data import Column, Row, row_key
from keeltune.formats import RowProblem, quoted
from keeltune.problems import Problem, nearest, shown
from keeltune.words import Said

__all__ = ["apply_label_map", "audit", "input_keys", "is_row_problem", "label_names", "repeats", "shared_rows"]

SIMILAR = 0.8
"""difflib's ratio from which a rare label counts as a misspelling of another."""

TRAINED = {"train", "augmented", "unlabeled", "source_train", "source_unlabeled"}
"""The streams of training, which may share rows: an evaluation is spoiled by those that it shares with them."""

IMBALANCE = 100
"""Rows of the largest class for one of the smallest, beyond which there is a warning."""


def is_row_problem(problem: Problem) -> bool:
    """Whether a fault is one row's, so that `bad_rows: skip` can leave that row out; any other stands for a file."""
    return isinstance(problem, RowProblem)


# --------------------------------------------------------------------------------------------------------------- labels


def apply_label_map(rows: Sequence[Row], mapping: Mapping[Any, Any]) -> tuple[list[Row], list[Problem]]:
    """The rows under the model's names, after a `data.labels` that maps names in the data to names of the model.

    A label that is one of the model's names already stays. A row with any other label is left out, with a problem.
    Keys do not change: they are those of the data as it is written.
    """
    names = {str(theirs): str(ours) for theirs, ours in mapping.items()}
    known = {ours: ours for ours in names.values()} | names
    mapped: list[Row] = []
    problems: list[Problem] = []
    for row in rows:
        labels = _labels(row)
        unknown = [label for label in labels if label not in known]
        problems += [
            _unknown(row, "label", label, tuple(names), "add it to data.labels, or correct it") for label in unknown
        ]
        if not unknown:
            new = list(dict.fromkeys(known[label] for label in labels))
            label = new[0] if isinstance(row.fields["label"], str) else new
            mapped.append(replace(row, fields=row.fields | {"label": label}))
    return mapped, problems


def label_names(
    rows_train: Sequence[Row],
    *,
    given: Sequence[Any] | Mapping[Any, Any] | None,
    head: Sequence[str] | None,
    multi_label: bool,
    labels_of: Callable[[Row], Sequence[str]] | None = None,
) -> tuple[list[str], list[Problem], list[str]]:
    """(names, problems, notes): the label names of a run, in the order of the model's outputs.

    A trained head's own names (`head`) where they cover the training rows; else `given`, the recipe's `data.labels`;
    else the names in the training rows, sorted (whole numbers by value). `LABEL_n` is no name; it stands for the
    number n where the data's labels are numbers. Call it after `apply_label_map`. Rows whose label is not among the
    names are found by `audit`, in every split alike.
    """
    labels_of = labels_of or _labels
    counts = Counter(label for row in rows_train for label in labels_of(row))
    own = _head_names(head, counts)
    if own and (counts.keys() <= set(own) or (given is None and _only_slips(counts, own))):
        return own, [], []
    notes = [_new_head(own, counts)] if own else []
    if given is not None:
        # several names of the data may be one of the model, so only a list can name one twice
        names = [str(name) for name in (dict.fromkeys(given.values()) if isinstance(given, Mapping) else given)]
        return list(dict.fromkeys(names)), _faulty_list(names, multi_label), notes
    if rows_train and not counts:
        mend = "add rows with labels, or name the column of the labels under data.columns"
        found = f"no label in any of {len(rows_train)} rows"
        return [], [Problem(rows_train[0].file, "label", found, "labels to learn", mend, "no label")], notes
    if all(label.isdecimal() for label in counts):
        return sorted(counts, key=int), [], notes
    return sorted(counts), _misspellings(rows_train, counts) if labels_of is _labels else [], notes


def _labels(row: Row, field: str = "label") -> list[str]:
    """The row's labels, one or several; none where it has no label."""
    value = row.fields.get(field, [])
    return [value] if isinstance(value, str) else list(value)


def _head_names(head: Sequence[str] | None, labels: Iterable[str]) -> list[str] | None:
    """A head's names as names of the data, or None where it has none to offer."""
    if not head or set(labels) <= set(head):
        return list(head) if head else None
    if all(re.fullmatch(r"LABEL_\d+", name) for name in head):
        numbers = [name.removeprefix("LABEL_") for name in head]
        return numbers if set(labels) <= set(numbers) else None
    return list(head)


def _only_slips(counts: Counter[str], own: Sequence[str]) -> bool:
    """Whether the labels that a head lacks are slips, rare and near its own names, and not classes of their own."""
    lacking = [label for label in counts if label not in own]
    rare = sum(counts[label] for label in lacking) <= max(2, 0.01 * counts.total())
    return rare and all(_near(label, own) for label in lacking)


def _near(label: str, names: Iterable[str]) -> str:
    """The name of which `label` may be a misspelling, or nothing; numbers are never misspelt."""
    words = [name for name in names if not name.isdecimal()]
    return next(iter(difflib.get_close_matches(label, words, n=1, cutoff=SIMILAR)), "")


def _new_head(head: Sequence[str], counts: Counter[str]) -> str:
    lacking = [label for label in counts if label not in head]
    note = f"the model's labels ({quoted(head)}) lack {quoted(lacking)} of the training rows: it gets a new head"
    folded = {name.casefold(): name for name in head}
    if all(label.casefold() in folded for label in counts):
        pairs = ", ".join(f"{label}: {folded[label.casefold()]}" for label in sorted(counts))
        note += f"; to keep its head, say data.labels: {{{pairs}}}"
    return note


def _faulty_list(names: Sequence[str], multi_label: bool) -> list[Problem]:
    twice = [name for name, times in Counter(names).items() if times > 1]
    faults = [(f"more than once: {quoted(twice)}", "name each label once")] if twice else []
    if not all(name.strip() for name in names):
        faults.append(("an empty name", "give the label a name, or delete it"))
    if len(names) < (1 if multi_label else 2):
        faults.append((f"{len(names)} labels: {quoted(names)}", "list every label, or leave data.labels out"))
    expected = "names of labels, all different"
    return [Problem("", "data.labels", found, expected, mend, "label list") for found, mend in faults]


def _misspellings(rows: Sequence[Row], counts: Counter[str]) -> list[Problem]:
    """Rare labels that look like a frequent one: with no list to hold them against, each would become a class."""
    few = max(3, counts.total() // 1000)
    places: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for label in _labels(row):
            if counts[label] <= few:
                places[label].append(row)
    warnings: list[Problem] = []
    for label, there in places.items():
        meant = _near(label, [name for name, times in counts.items() if times >= 20 * counts[label]])
        if meant:
            template = '{label} in {n} rows, "{meant}" in {often}: {places}'
            places_ = _places(there)
            found = Said(template, label=shown(label), n=len(there), meant=meant, often=counts[meant], places=places_)
            mend = Said("correct it; or list all labels in data.labels, if it is a class of its own")
            expected = Said("each class under one name")
            warnings.append(_warning(there, "label", found, expected, mend, "label perhaps misspelt"))
    return warnings


# ---------------------------------------------------------------------------------------------------------------- audit


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
    own = labels_of is None
    labels_of = labels_of or _labels
    field = next((column.name for column in columns if column.label), "label")
    problems: list[Problem] = []
    for rows in splits.values():
        problems += _outside(rows, names, field) if own else _never_learnt(rows, names, field, labels_of)
    bad = {(p.file, p.line) for p in problems if isinstance(p, RowProblem)}
    keys = {split: input_keys(rows, columns) for split, rows in splits.items()}
    if names and own:
        problems += _classes(splits, names, field, multi_label)
    problems += _shared(splits, keys)
    for split, rows in splits.items():
        problems += _repeated(split, rows, keys[split], field, labels_of if names else None)
    return problems, bad


def _outside(rows: Sequence[Row], names: Sequence[str], field: str) -> list[Problem]:
    known, listed = set(names), tuple(names)
    mend = "correct it, or list every label in data.labels"
    return [_unknown(row, field, one, listed, mend) for row in rows for one in _labels(row, field) if one not in known]


def _never_learnt(
    rows: Sequence[Row], names: Sequence[str], field: str, labels_of: Callable[[Row], Sequence[str]]
) -> list[Problem]:
    """Labels of evaluation rows that no training row has: they count as missed."""
    if not names:
        return []
    places: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for label in set(labels_of(row)) - set(names):
            places[label].append(row)
    template = "{label} in {n} rows, in no training row: {places}"
    expected = Said("labels that can be learnt")
    mend = Said("add training rows with it; until then it counts as missed")
    return [
        _warning(there, field, Said(template, label=shown(label), n=len(there), places=_places(there)), expected, mend,
                 "label never learnt")
        for label, there in sorted(places.items())
    ]  # fmt: skip


def _unknown(row: Row, field: str, label: str, names: tuple[str, ...], mend: str) -> RowProblem:
    place, (found, expected) = f"{row.file}:{row.line}", _beside(label, names)
    return RowProblem(place, field, found, expected, mend, "unknown label", file=row.file, line=row.line)


@lru_cache(maxsize=1000)  # a wrong label seldom comes alone, and a search among 150 names takes milliseconds
def _beside(label: str, names: tuple[str, ...]) -> tuple[str, str]:
    return shown(label) + nearest(label, names), f"one of the labels {quoted(names)}"


def _classes(splits: Mapping[str, Sequence[Row]], names: Sequence[str], field: str, multi_label: bool) -> list[Problem]:
    """Too few classes to learn from, classes that a split lacks, and a strong imbalance."""
    problems: list[Problem] = []
    for split in ("train", "validation", "test"):
        rows = [row for row in splits.get(split, ()) if field in row.fields]
        seen = Counter(label for row in rows for label in _labels(row, field))
        counts = {name: seen[name] for name in names if seen[name]}
        absent = [name for name in names if not seen[name]]
        if not rows:
            continue
        if split == "train" and len(counts) < (1 if multi_label else 2):
            found = f"one class only: {quoted(counts)} in {len(rows)} rows"
            mend = "add rows of another class, or name the column of the label under data.columns"
            problems.append(Problem(rows[0].file, field, found, "rows of at least two classes", mend, "one class"))
        elif absent:
            template = "no row of {n} of {all} classes in {split}: {names}"
            found = Said(template, n=len(absent), all=len(names), split=Said(split), names=quoted(absent))
            mend = Said("add rows of them, or take them out of the labels")
            problems.append(_warning(rows, field, found, Said("rows of every class"), mend, "class without rows"))
        if split == "train" and counts and max(counts.values()) > IMBALANCE * min(counts.values()):
            most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
            template = '{many} rows of "{most}", {few} of "{least}"'
            found = Said(template, many=counts[most], most=most, few=counts[least], least=least)
            mend = Said("look at macro-F1, and consider data.class_weights: balanced")
            expected = Said("at most {n} rows for one of the rarest class", n=IMBALANCE)
            problems.append(_warning(rows, field, found, expected, mend, "imbalance"))
    return problems


def input_keys(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Each row's key without its label: equal ones are the same input."""
    inputs = [column.name for column in columns if not column.label]
    return [row_key(row.fields, inputs) for row in rows]


def shared_rows(
    splits: Mapping[str, Sequence[Row]], keys: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str, list[Row]]]:
    """(one, other, rows of other whose input is in one too); two streams of training may share theirs."""
    for one, other in combinations(splits, 2):
        known = set() if {one, other} <= TRAINED else set(keys[one])
        if there := [row for row, key in zip(splits[other], keys[other], strict=True) if key in known]:
            yield one, other, there


def repeats(
    rows: Sequence[Row], keys: Sequence[str], labels_of: Callable[[Row], Sequence[str]] | None
) -> tuple[list[Row], list[Row]]:
    """(rows with the same input and different labels, rows that stand there already).

    Without `labels_of` nothing conflicts: a text may well have several translations.
    """
    same: dict[str, list[Row]] = defaultdict(list)
    for row, key in zip(rows, keys, strict=True):
        same[key].append(row)
    conflicts: list[Row] = []
    copies: list[Row] = []
    for group in same.values():
        if len({frozenset(labels_of(row)) if labels_of else row.key for row in group}) == 1:
            copies += group[1:]
        elif labels_of:
            conflicts += group
    return conflicts, copies


def _shared(splits: Mapping[str, Sequence[Row]], keys: Mapping[str, Sequence[str]]) -> list[Problem]:
    """Inputs that are in two splits: an evaluation is spoiled by it."""
    warnings: list[Problem] = []
    for one, other, there in shared_rows(splits, keys):
        names = {"one": Said(one), "other": Said(other)}
        template = "{n} of {all} rows of {other} are in {one} too: {places}"
        found = Said(template, n=len(there), all=len(splits[other]), places=_places(there), **names)
        mend = Said("take them out of {one} or of {other}: a row that was trained on does not test", **names)
        expected = Said("no input in two splits")
        warnings.append(_warning(there, "", found, expected, mend, f"rows shared by {one}, {other}"))
    return warnings


def _repeated(
    split: str,
    rows: Sequence[Row],
    keys: Sequence[str],
    field: str,
    labels_of: Callable[[Row], Sequence[str]] | None,
) -> list[Problem]:
    """The same input with different answers; and, in training, the same row several times."""
    conflicts, copies = repeats(rows, keys, labels_of)
    warnings: list[Problem] = []

    def warn(there: Sequence[Row], template: str, field: str, expected: str, mend: str, kind: str) -> None:
        found = Said(template, n=len(there), split=Said(split), places=_places(there))
        warnings.append(_warning(there, field, found, expected, mend, kind))

    if conflicts:
        template = "{n} rows of {split} share an input but not the label: {places}"
        expected, mend = Said("one answer for one input"), Said("keep those with the right label")
        warn(conflicts, template, field, expected, mend, f"conflicts in {split}")
    if copies and split == "train":
        template = "{n} rows of {split} are repeats: {places}"
        expected, mend = Said("each row once"), Said("delete them, unless they should weigh more")
        warn(copies, template, "", expected, mend, "repeated rows")
    return warnings


def _warning(rows: Sequence[Row], field: str, found: str, expected: str, mend: str, kind: str) -> Problem:
    """A warning about many rows, placed at the first of them. Not a row's problem: nothing is to be left out."""
    return Problem(f"{rows[0].file}:{rows[0].line}", field, found, expected, mend, kind, severity="warning")


def _places(rows: Sequence[Row]) -> str:
    """Where the first rows are."""
    return ", ".join(f"{row.file}:{row.line}" for row in rows[:3]) + (", …" if len(rows) > 3 else "")
