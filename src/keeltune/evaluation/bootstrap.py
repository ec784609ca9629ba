"""Whether a difference is more than chance."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest


def mcnemar(lost: int, won: int) -> float:
    """McNemar's exact test: of the rows that changed sides, how likely is it that one side is as much commoner?"""
    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


RESAMPLES = 1000


def bootstrap(
    statistics: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, clusters: np.ndarray | None = None
) -> np.ndarray:
    """Statistics [rows, K], summed over `resamples` draws of as many rows with replacement: [resamples, K].

    Source: Efron 1979. One matrix product: how often each row was drawn, times the statistics. `clusters` [rows] gives
    each row's cluster: whole clusters are drawn, as many as there are.
    """
    statistics = summed(statistics, clusters)
    rows = len(statistics)
    counts = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=resamples)
    return counts.astype(np.float64) @ statistics


def summed(statistics: np.ndarray, clusters: np.ndarray | None) -> np.ndarray:
    """What is drawn together: the rows' statistics, or their sums over each cluster."""
    if clusters is None:
        return statistics
    sums = np.zeros((clusters.max() + 1, statistics.shape[1]))
    np.add.at(sums, clusters, statistics)
    return sums


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the draws."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
