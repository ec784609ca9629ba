"""What a model lost and what it won, row by row: the same rows answered before and after training.

Everything here is made of the two prediction files of a split and of the tables that their scores are made of, so that
it can be made again from the run folder. Intervals are percentile bootstraps over rows (or clusters), drawn in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keeltune.data.clusters import numbers_of
from keeltune.data.dataset import Row
from keeltune.evaluation import bootstrap, scores, slices
from keeltune.evaluation.bootstrap import mcnemar
from keeltune.evaluation.scores import Scores
from keeltune.tasks.metrics import higher_is_better, scale_of
from keeltune.tasks.task import Task

Line = Mapping[str, Any]
"""A line of `predictions/*.jsonl`."""


def change(
    task: Task,
    rows: Sequence[Row],
    before: Scores,
    after: Scores,
    lines: tuple[Sequence[Line], Sequence[Line]],
    *,
    lengths: Sequence[int],
    clusters: str | None = None,
) -> dict[str, Any]:
    """One split before and after.

    {"rows", "clusters", "metric", "metrics": {name: {"before", "after", "change", "interval"}}, "retention",
    "mcnemar": {"lost", "won", "p"} (of rows that are right or wrong), "by_label", "slices": {column: {value: {"rows",
    "before", "after", "change", "interval"}}}, "lost": [row that was right and is now wrong], "won": its number}.
    `change` is after − before in the metric's own unit. `retention` is after / before, of error rates that of 1 − rate.
    `lengths` are the examples' [rows], for slices of short and long rows.
    """
    groups = numbers_of(rows, clusters)
    resampled = scores.differences(task, after.table, before.table, groups)
    metrics = {
        name: {
            "before": before.metrics[name],
            "after": value,
            "change": value - before.metrics[name],
            "interval": list(bootstrap.interval(resampled[name])),
        }
        for name, value in after.metrics.items()
    }
    metric = task.metrics[0]
    lost = [lost_row(old, new) for old, new in zip(*lines, strict=True) if fell(old["score"], new["score"])]
    won = sum(fell(new["score"], old["score"]) for old, new in zip(*lines, strict=True))
    return {
        "rows": len(rows),
        "clusters": None if groups is None else int(groups.max()) + 1,
        "metric": metric,
        "metrics": metrics,
        "retention": retention(before.metrics[metric], after.metrics[metric], metric),
        "mcnemar": None if groups is not None else mcnemar_of(lines, len(lost), won),
        "by_label": _by_label(before.details.get("by_label"), after.details.get("by_label")),
        "slices": _slices(task, rows, before.table, after.table, metric, lengths, groups),
        "lost": lost,
        "won": won,
    }


def retention(before: float, after: float, metric: str) -> float | None:
    """What is left of a score: after / before, of an error rate (1 − after) / (1 − before); None of a loss, or of 0."""
    if scale_of(metric) is None:
        return None
    if not higher_is_better(metric):
        before, after = 1 - before, 1 - after
    return after / before if before > 0 else None


def fell(old: float, new: float) -> bool:
    """Right before and wrong now; of graded answers, less than half as good."""
    return new < old / 2


def lost_row(old: Line, new: Line) -> dict[str, Any]:
    both = {"before": old["prediction"], "after": new["prediction"]}
    return {"row": new["row"], "key": new["key"], **both, "gold": new["gold"]}


def mcnemar_of(lines: tuple[Sequence[Line], Sequence[Line]], lost: int, won: int) -> dict[str, Any] | None:
    """McNemar's exact test: of the rows that changed sides, is one side commoner than by chance? Else None."""
    if not all(line["score"] in (0, 1) for split in lines for line in split):
        return None
    return {"lost": lost, "won": won, "p": mcnemar(lost, won)}


def _by_label(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Each label's F1 before and after."""
    if not before or not after:
        return None
    return {
        label: {
            "rows": found.get("rows"),
            "before": before[label]["f1"],
            "after": found["f1"],
            "change": found["f1"] - before[label]["f1"],
        }
        for label, found in after.items()
        if label in before
    }


def _slices(
    task: Task,
    rows: Sequence[Row],
    before: np.ndarray,
    after: np.ndarray,
    metric: str,
    lengths: Sequence[int],
    groups: np.ndarray | None,
) -> dict[str, Any]:
    """The change in each value of each further column of a few values, and in short, medium and long rows."""
    columns = slices.columns_of(task, rows, lengths)
    changes: dict[str, Any] = {}
    for name, values in columns.items():
        changes[name] = {}
        for value in sorted(set(values)):
            indices = [i for i, other in enumerate(values) if other == value]
            a, b = before[indices], after[indices]
            old, new = (scores.scores_of(task, table, intervals=False).metrics[metric] for table in (a, b))
            group_clusters = None if groups is None else np.unique(groups[indices], return_inverse=True)[1]
            enough = slices.enough(len(indices), group_clusters)
            resampled = scores.differences(task, b, a, group_clusters)[metric] if enough else None
            changes[name][value] = {
                "rows": len(indices),
                "before": old,
                "after": new,
                "change": new - old,
                "interval": None if resampled is None else list(bootstrap.interval(resampled)),
            }
    return changes
