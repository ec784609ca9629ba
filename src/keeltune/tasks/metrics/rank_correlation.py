from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics._numbers import OfNumbers, moments, pearson


class RankCorrelation(OfNumbers):
    """Spearman's correlation, −1..1: Pearson's of the ranks, ties at their mean rank. Of several numbers the mean.

    Statistics a row: those of `Correlation`, of its ranks among all rows that are scored together, as shares −½..½. A
    bootstrap draws rows with the ranks that they have, as sums of rows must be scores.
    """

    names = ("spearman",)
    scores_single_rows = False
    library = "checked against scipy"

    @property
    def width(self) -> int:
        return 6 * self.count

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        ranks = [_ranks(self.standard(numbers)) for numbers in (values, golds)]
        return moments(ranks[0], ranks[1])

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        table = np.asarray(sums, dtype=np.float64).reshape(*np.shape(sums)[:-1], 6, self.count)
        return {"spearman": pearson(*(table[..., i, :] for i in range(6))).mean(-1)}


def _ranks(table: np.ndarray) -> np.ndarray:
    """Ranks [rows, K] as shares around 0."""
    if not len(table):
        return table
    from scipy.stats import rankdata  # a second, and all metrics are looked up where one is

    return (rankdata(table, axis=0) - 0.5 * (len(table) + 1)) / len(table)
