"""The bootstrap of a score that is the mean over several seeds: rows are resampled, and seeds.

The rows are the same for all seeds where their rows are the same, so that the interval holds both what other rows and
what other seeds would change:

    draw = m + √(S / (S − 1)) · (m* − m),     m the mean over all S seeds of their scores on the resampled rows, m* that
                                               over S seeds drawn with replacement

The root makes up for a draw among S values showing only (S − 1) / S of their variance. With three seeds the spread
itself is known badly; five and more are better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keeltune.data.clusters import clusters_of
from keeltune.evaluation import bootstrap
from keeltune.evaluation.intervals import metrics_of
from keeltune.evaluation.scores import table_of
from keeltune.tasks.task import Task


def draws(task: Task, table: np.ndarray, resamples: int = bootstrap.RESAMPLES) -> dict[str, np.ndarray]:
    """Each metric on each draw of a table's rows: {name: [resamples]}; the same draws for tables of as many rows."""
    return metrics_of(task, bootstrap.bootstrap(table, resamples))


def over_seeds(seed_draws: Sequence[np.ndarray]) -> np.ndarray:
    """The module's draw: of each seed's scores on the drawn rows, [seeds][resamples], those of the pool [resamples]."""
    scores = np.stack(seed_draws)
    seeds = len(scores)
    mean = scores.mean(0)
    if seeds == 1:
        return mean
    shares = np.random.default_rng(1).multinomial(seeds, np.full(seeds, 1 / seeds), size=scores.shape[1]) / seeds
    return mean + np.sqrt(seeds / (seeds - 1)) * ((shares.T * scores).sum(0) - mean)


def clustered(task: Task, lines: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The table of a prediction file, in the units that are drawn together: rows, or the sums of their clusters."""
    return grouped(table_of(task, lines), lines)


def grouped(table: np.ndarray, lines: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The table of a prediction file's lines, [rows, K + 2], in those units."""
    return bootstrap.summed(table, clusters_of([line.get("cluster") for line in lines]))
