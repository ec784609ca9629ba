"""What the metrics of numbers share: answers and right numbers as a table, in the unit of the training targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.data.targets import numbers_of, unit_of
from keeltune.tasks.metrics.metric import Metric


class OfNumbers(Metric):
    """One number a row or several, K of them (`settings.labels`); each score is the mean over the K."""

    answers = "numbers"

    @property
    def count(self) -> int:
        return max(1, len(self.settings.labels))

    @property
    def deviation(self) -> np.ndarray:
        """The unit of each number [K]."""
        return np.array(unit_of(self.settings.config, self.count)[1])

    def standard(self, values: Sequence[Any]) -> np.ndarray:
        """Numbers [rows, K] less the mean and by the deviation of the training targets: sums of squares stay exact."""
        mean, deviation = unit_of(self.settings.config, self.count)
        table = np.array([numbers_of(value) for value in values], dtype=np.float64).reshape(len(values), self.count)
        return (table - np.array(mean)) / np.array(deviation)


def pearson(n: np.ndarray, x: np.ndarray, y: np.ndarray, xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> Any:
    """Pearson's r from sums, 0 where one side is constant."""
    covariance, spread = n * xy - x * y, (n * xx - x * x) * (n * yy - y * y)
    whole = np.sqrt(np.maximum(spread, 0.0))
    constant = whole <= 1e-9 * np.maximum(n * xx, 1e-300) ** 0.5 * np.maximum(n * yy, 1e-300) ** 0.5
    return np.clip(np.divide(covariance, whole, out=np.zeros_like(whole), where=~constant), -1.0, 1.0)


def moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1, x, y, x², y², xy of each row and number: [rows, 6 · K]."""
    parts = [np.ones_like(x), x, y, x * x, y * y, x * y]
    return np.stack(parts, axis=1).reshape(len(x), 6 * x.shape[1])
