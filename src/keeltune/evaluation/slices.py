"""A model's score in groups of rows: who is served badly, and how sure that is.

Groups are the values of the data's further columns, short and long rows, rows of common and of rare words, and the
labels. A group of few rows is marked, not hidden.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keeltune.data.clusters import FEW_CLUSTERS
from keeltune.data.dataset import Row
from keeltune.data.media import Media
from keeltune.evaluation import bootstrap
from keeltune.evaluation.counterfactual import words_of
from keeltune.evaluation.scores import scores_of
from keeltune.tasks.task import Task
from keeltune.utils.names import plain_name

FEW, MANY = 2, 20
"""How many values a column must have, and may have, to be cut into groups."""

SMALL = 100
"""Rows of a group below which it is marked as too small to conclude from."""

BARE = 20
"""Rows of a group below which it gets no interval: that would say less than it seems to."""

COUNTED = 20
"""Labels up to which equalised odds get an interval."""

THIRDS = ("short", "medium", "long")

WORDS = ("common words", "mixed", "rare words")


def columns_of(
    task: Task, rows: Sequence[Row], lengths: Sequence[int], requested: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """The groups that rows fall into: {column: [value a row]}, and `length` by thirds of the examples' lengths.

    `requested`: the columns to use, whatever they hold; None for those that hold few values.
    """
    known = {column.name for column in task.columns}
    further = sorted({name for row in rows for name in row.fields if name not in known})
    names = further if requested is None else requested
    values_of = {name: [row.fields.get(name) for row in rows] for name in names}
    columns = {
        n: [plain_name(str(v)) for v in values]
        for n, values in values_of.items()
        if requested is not None or _few(values)
    }
    if thirds := by_thirds(lengths, THIRDS):
        columns[other_group("length", columns)] = thirds
    return columns


def other_group(name: str, columns: Mapping[str, Any]) -> str:
    """A name for thirds that no column of the data has."""
    return name if name not in columns else f"{name} (thirds)"


def by_thirds(values: Sequence[float], names: Sequence[str]) -> list[str] | None:
    """Each value's third by rank; None where all are alike."""
    if not len(values):
        return None
    edges = np.quantile(np.asarray(values), [1 / 3, 2 / 3])
    edges[1] = min(edges[1], np.nextafter(max(values), -np.inf))  # where many are the largest, as cut ones are
    return [names[int(np.searchsorted(edges, value))] for value in values] if edges[0] < edges[1] else None


def _few(values: Sequence[Any]) -> bool:
    """Few values, and each of several rows on average: what differs from row to row is a key, not a group."""
    plain = not any(isinstance(value, list | dict | Media) for value in values)
    return plain and FEW <= len({str(value) for value in values}) <= min(MANY, len(values) // 2)


def rarity(texts: Sequence[str], train: Sequence[str]) -> list[float]:
    """How rare a text's words are in the training rows: their mean −log frequency, one occurrence more each."""
    counts = Counter(word for text in train for word in words_of(text))
    total = counts.total() + len(counts) + 1
    rarities = []
    for text in texts:
        words = words_of(text)
        rarities.append(sum(-math.log((counts[w] + 1) / total) for w in words) / max(1, len(words)))
    return rarities


def report(
    task: Task,
    table: np.ndarray,
    columns: Mapping[str, Sequence[str]],
    clusters: np.ndarray | None = None,
    choices: tuple[Sequence[str], Sequence[str]] | None = None,
) -> dict[str, Any]:
    """{column: {"groups": {value: {"rows", "value", "interval", "small"}}, "worst": value, "gap",
    "equalised_odds": number or null, "equalised_odds_interval"}} in the task's first metric.

    `table` [rows, K + 2] is a split's. `worst` and `gap` (best − worst, at least 0) are of the groups that are not too
    small, null where there are fewer than two. `choices`: predicted and right label of each row, for equalised odds.
    """
    metric, sign = task.metrics[0], task.primary_sign
    columns_report: dict[str, Any] = {}
    for name, values in columns.items():
        groups, large = {}, dict[str, float]()
        for value in sorted(set(values)):
            indices = [i for i, other in enumerate(values) if other == value]
            group_clusters = None if clusters is None else np.unique(clusters[indices], return_inverse=True)[1]
            has_interval = enough(len(indices), group_clusters)
            scores = scores_of(task, table[indices], intervals=has_interval, clusters=group_clusters)
            groups[value] = {
                "rows": len(indices),
                "value": scores.metrics[metric],
                "interval": list(scores.intervals[metric]) if has_interval else None,
                "small": len(indices) < SMALL,
            }
            if len(indices) >= SMALL:
                large[value] = sign * scores.metrics[metric]
        several = len(large) >= FEW
        columns_report[name] = {
            "groups": groups,
            "worst": min(large, key=large.__getitem__) if several else None,
            "gap": max(large.values()) - min(large.values()) if several else None,
            **(equalised_odds(*choices, values, clusters) if choices and name != "label" else NO_ODDS),
        }
    return columns_report


def enough(rows: int, clusters: np.ndarray | None) -> bool:
    """Whether a group has rows, and clusters, enough for an interval."""
    return rows >= BARE and (clusters is None or len(np.unique(clusters)) >= FEW_CLUSTERS)


NO_ODDS: dict[str, Any] = {"equalised_odds": None, "equalised_odds_interval": None}


def equalised_odds(
    predicted: Sequence[str], right: Sequence[str], groups: Sequence[str], clusters: np.ndarray | None = None
) -> dict[str, Any]:
    """max over labels c of max(max_g TPR_g − min_g TPR_g, max_g FPR_g − min_g FPR_g), each c against the others.

    {"equalised_odds", "equalised_odds_interval": bootstrap over rows, or over `clusters` [rows]}. Of groups of `SMALL`
    rows and more, and of rates of `BARE` rows and more; None where fewer than two groups have one. A largest difference
    is above 0 by chance alone, and larger still on drawn rows: the draws are moved by that excess. For two labels it is
    fairlearn's `equalized_odds_difference`.
    Source: Hardt et al. 2016, https://arxiv.org/abs/1610.02413.
    """
    large = [value for value, rows in Counter(groups).items() if rows >= SMALL]
    labels = sorted({*right, *predicted})
    if len(large) < FEW:
        return NO_ODDS
    of_group, of_label = ({name: i for i, name in enumerate(names)} for names in (large, labels))
    indices = [i for i, group in enumerate(groups) if group in of_group]
    shape = (len(large), len(labels), len(labels))
    cells = np.ravel_multi_index(
        (
            [of_group[groups[i]] for i in indices],
            [of_label[right[i]] for i in indices],
            [of_label[predicted[i]] for i in indices],
        ),
        shape,
    )
    counts = np.bincount(cells, minlength=math.prod(shape))
    value = _widest(counts.reshape(1, *shape))[0]
    if np.isnan(value):
        return NO_ODDS
    interval = None
    if len(labels) <= COUNTED:
        if clusters is None:  # rows of one cell are alike: how many of each are drawn is all that counts
            rows = np.random.default_rng(0)
            resampled = rows.multinomial(len(indices), counts / len(indices), size=bootstrap.RESAMPLES)
        else:
            cluster_numbers = np.unique(clusters[indices], return_inverse=True)[1]
            table = np.zeros((cluster_numbers.max() + 1, math.prod(shape)))
            np.add.at(table, (cluster_numbers, cells), 1.0)
            resampled = bootstrap.bootstrap(table)
        resampled = _widest(resampled.reshape(-1, *shape))
        resampled = resampled[~np.isnan(resampled)]
        interval = list(bootstrap.interval(np.clip(resampled - resampled.mean() + value, 0.0, 1.0)))
    return {"equalised_odds": float(value), "equalised_odds_interval": interval}


def _widest(counts: np.ndarray) -> np.ndarray:
    """The largest difference of a rate between groups, of counts [draws, groups, right, predicted]; NaN without any."""
    chosen = counts.sum(2)  # [draws, groups, predicted]
    right = counts.sum(3)
    hits = np.diagonal(counts, axis1=2, axis2=3)
    rows = right.sum(-1, keepdims=True)
    gaps = []
    for part, whole in ((hits, right), (chosen - hits, rows - right)):  # true and false positives
        rate = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole >= BARE)
        known = (~np.isnan(rate)).sum(1) >= FEW
        highest = np.where(np.isnan(rate), -np.inf, rate).max(1)
        lowest = np.where(np.isnan(rate), np.inf, rate).min(1)
        gaps.append(np.where(known, highest - lowest, -np.inf).max(-1))
    widest = np.maximum(*gaps)
    return np.where(np.isinf(widest), np.nan, widest)
