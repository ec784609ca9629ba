"""What a run's rows are: how many and how long, with which labels, and what is cut, repeated, shared, contradicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.data import audit, row_labels
from keeltune.data.dataset import Row
from keeltune.data.labels import labels_of
from keeltune.tasks.common.example import Example
from keeltune.tasks.task import Task
from keeltune.training.preparation.material import OLD, Material
from keeltune.utils.errors import Problem

LENGTHS = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
"""The quantiles of the examples' lengths, by their names in `result.json`."""


def audit_report(material: Material) -> dict[str, Any]:
    """What `result.json` has as `audit`.

    {"splits": {split: `of_split`}, "shared": [{"splits": [one, other], "rows": inputs of other that are in one too}],
    "skipped": {kind of fault: rows}, "warnings": [{"where", "field", "found", "expected", "mend", "kind"}]}
    """
    columns = material.task.columns
    splits = {name: rows for name, rows in material.rows.items() if rows}
    inputs = {name: audit.input_keys(rows, columns) for name, rows in splits.items()}
    return {
        "splits": {
            name: of_split(_reader(material, name), rows, material.encoded[name], inputs[name])
            for name, rows in splits.items()
        },
        "shared": [{"splits": [one, other], "rows": len(rows)} for one, other, rows in audit.shared_rows(inputs)],
        "skipped": dict(Counter(problem.kind or problem.field for problem in material.skipped)),
        "warnings": [_warning(problem) for problem in material.warnings],
    }


def _warning(problem: Problem) -> dict[str, str]:
    fields = {name: getattr(problem, name) for name in ("where", "field", "found", "expected")}
    return {**fields, "mend": problem.fix, "kind": problem.kind}


def of_split(
    task: Task, rows: Sequence[Row], encoded: Sequence[Sequence[Example]], inputs: np.ndarray
) -> dict[str, Any]:
    """{"rows", "examples", "lengths": {quantile: tokens or frames, the answer included}, "truncated": rows that are
    cut, "labels": {name: rows that have it} or null, "repeated": rows that stand there already, "conflicting": rows
    with the input of another and a different label}."""
    lengths = [example.length for row in encoded for example in row]
    quantiles = np.quantile(lengths, list(LENGTHS.values())).tolist() if lengths else []
    counts = label_counts(task, rows)
    conflicting, repeated = audit.repeats(rows, inputs, task.labels_of if counts else None)
    return {
        "rows": len(rows),
        "examples": len(lengths),
        "lengths": dict(zip(LENGTHS, quantiles, strict=True)) if lengths else None,
        "truncated": sum(any(example.truncated for example in row) for row in encoded),
        "labels": counts or None,
        "repeated": len(repeated),
        "conflicting": len(conflicting),
    }


def label_counts(task: Task, rows: Sequence[Row]) -> dict[str, int]:
    """How many rows have each label, in the order of the model's outputs; labels that it does not know come last."""
    in_column = labels_of(type(task)) is None
    counts = (
        row_labels.label_counts(rows) if in_column else Counter(n for row in rows for n in set(task.labels_of(row)))
    )
    known = [name for name in task.settings.labels if name in counts]
    return {name: counts[name] for name in [*known, *sorted(set(counts) - set(known))]}


def _reader(material: Material, split: str) -> Task:
    """The task whose labels a split's rows have."""
    return material.anchor_task if material.anchor_task is not None and split in OLD else material.task
