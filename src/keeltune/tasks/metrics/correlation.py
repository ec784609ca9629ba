from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics._numbers import OfNumbers, moments, pearson


class Correlation(OfNumbers):
    """Pearson's correlation, −1..1, and R², the share of the variance that is explained: up to 1, and below 0 for
    answers that are worse than the mean. Of several numbers the mean over them.

    Statistics a row: 1, answer, right number, their squares and their product, of each number in turn.
    """

    names = ("pearson", "r2")
    scores_single_rows = False
    library = "checked against scipy and scikit-learn"

    @property
    def width(self) -> int:
        return 6 * self.count

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        return moments(self.standard(values), self.standard(golds))

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        table = np.asarray(sums, dtype=np.float64).reshape(*np.shape(sums)[:-1], 6, self.count)
        n, x, y, xx, yy, xy = (table[..., i, :] for i in range(6))
        errors, spread = xx - 2 * xy + yy, yy - np.divide(y * y, n, out=np.zeros_like(y), where=n > 0)
        constant = spread <= 1e-12 * np.maximum(yy, 1e-300)
        explained = 1 - np.divide(errors, spread, out=np.ones_like(errors), where=~constant)
        explained = np.where(constant & (errors <= 1e-12 * np.maximum(yy, 1.0)), 1.0, explained)
        return {"pearson": pearson(n, x, y, xx, yy, xy).mean(-1), "r2": explained.mean(-1)}
