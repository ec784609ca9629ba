"""A model's score in groups of rows: who is served badly, and how sure that is.

Groups are the values of the data's further columns, short and long rows, rows of common and of rare words, and the
labels. A group of few rows is marked, not hidden.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keeltune import evaluation
from keeltune.data import Row
from keeltune.media import Media
from keeltune.tasks.task import Task

FEW, MANY = 2, 20
"""How many values a column must have, and may have, to be cut into groups."""

SMALL = 100
"""Rows of a group below which it is marked as too small to conclude from."""

BARE = 20
"""Rows of a group below which it gets no interval: that would say less than it seems to."""

THIRDS = ("short", "medium", "long")
WORDS = ("common words", "mixed", "rare words")

WORD = re.compile(r"\w+")


def columns_of(
    task: Task, rows: Sequence[Row], lengths: Sequence[int], asked: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """The groups that rows fall into: {column: [value a row]}, and `length` by thirds of the examples' lengths.

    `asked`: the columns to use, whatever they hold; None for those that hold few values.
    """
    known = {column.name for column in task.columns}
    names = sorted({name for row in rows for name in row.fields if name not in known}) if asked is None else asked
    further = {name: [row.fields.get(name) for row in rows] for name in names}
    columns = {n: [str(v) for v in values] for n, values in further.items() if asked is not None or _few(values)}
    if thirds := by_thirds(lengths, THIRDS):
        columns["length"] = thirds
    return columns


def by_thirds(values: Sequence[float], names: Sequence[str]) -> list[str] | None:
    """Each value's third by rank; None where all are alike."""
    if not len(values):
        return None
    edges = np.quantile(np.asarray(values), [1 / 3, 2 / 3])
    return [names[int(np.searchsorted(edges, value))] for value in values] if edges[0] < edges[1] else None


def _few(values: Sequence[Any]) -> bool:
    plain = not any(isinstance(value, list | dict | Media) for value in values)
    return plain and FEW <= len({str(value) for value in values}) <= MANY


def rarity(texts: Sequence[str], train: Sequence[str]) -> list[float]:
    """How rare a text's words are in the training rows: their mean −log frequency, one occurrence more each."""
    counts = Counter(word for text in train for word in WORD.findall(text.lower()))
    total = counts.total() + len(counts) + 1
    found = []
    for text in texts:
        words = WORD.findall(text.lower())
        found.append(sum(-math.log((counts[w] + 1) / total) for w in words) / max(1, len(words)))
    return found


def report(
    task: Task,
    table: np.ndarray,
    columns: Mapping[str, Sequence[str]],
    clusters: np.ndarray | None = None,
    choices: tuple[Sequence[str], Sequence[str]] | None = None,
) -> dict[str, Any]:
    """{column: {"groups": {value: {"rows", "value", "interval", "small"}}, "worst": value, "gap",
    "equalised_odds": number or null}} in the task's first metric.

    `table` [rows, K + 2] is a split's. `worst` and `gap` (best − worst, at least 0) are of the groups that are not too
    small, null where there are fewer than two. `choices`: predicted and right label of each row, for equalised odds.
    """
    metric, sign = task.metrics[0], task.primary_sign
    found: dict[str, Any] = {}
    for name, values in columns.items():
        groups, large = {}, dict[str, float]()
        for value in sorted(set(values)):
            places = [i for i, other in enumerate(values) if other == value]
            own = None if clusters is None else np.unique(clusters[places], return_inverse=True)[1]
            wide = len(places) >= BARE
            scores = evaluation.scores_of(task, table[places], intervals=wide, clusters=own)
            groups[value] = {
                "rows": len(places),
                "value": scores.metrics[metric],
                "interval": list(scores.intervals[metric]) if wide else None,
                "small": len(places) < SMALL,
            }
            if len(places) >= SMALL:
                large[value] = sign * scores.metrics[metric]
        enough = len(large) >= FEW
        found[name] = {
            "groups": groups,
            "worst": min(large, key=large.__getitem__) if enough else None,
            "gap": max(large.values()) - min(large.values()) if enough else None,
            "equalised_odds": equalised_odds(*choices, values) if choices and name != "label" else None,
        }
    return found


def equalised_odds(predicted: Sequence[str], right: Sequence[str], groups: Sequence[str]) -> float | None:
    """max over labels c of max(max_g TPR_g − min_g TPR_g, max_g FPR_g − min_g FPR_g), each c against the others.

    Of groups of `SMALL` rows and more; None where there are fewer than two. For two labels this is fairlearn's
    `equalized_odds_difference`. Source: Hardt et al. 2016, https://arxiv.org/abs/1610.02413.
    """
    p, y, g = (np.asarray(values, dtype=object) for values in (predicted, right, groups))
    large = [value for value, rows in Counter(groups).items() if rows >= SMALL]
    if len(large) < FEW:
        return None
    widest = 0.0
    for label in sorted(set(right)):
        for of_label in (True, False):
            asked = [(g == group) & ((y == label) == of_label) for group in large]
            rates = [float((p[rows] == label).mean()) for rows in asked if rows.any()]
            widest = max(widest, max(rates) - min(rates)) if len(rates) >= FEW else widest
    return widest
