"""A metric of your own: one final class in a module of your own package.

evaluation: {metrics: ["my_package.balanced_accuracy:BalancedAccuracy"]}
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics.metric import Metric, ratio


class BalancedAccuracy(Metric):
    """The mean over the labels of the share of their rows that are right: a rare label counts as much as a common one.

    Statistics of a label: how often right, how often gold. A label without a row does not count.
    Source: Brodersen et al. 2010, https://doi.org/10.1109/ICPR.2010.764.
    """

    names = ("balanced_accuracy",)
    answers = "label"
    library = "checked against scikit-learn"

    @property
    def width(self) -> int:
        return 2 * len(self.settings.labels)

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        labels = np.array(list(self.settings.labels))
        gold = np.array(list(golds))[:, None] == labels  # [rows, L]
        right = gold & (np.array(list(values)) == np.array(list(golds)))[:, None]
        return np.concatenate([right, gold], axis=-1).astype(np.float64)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        right, gold = np.split(sums, 2, axis=-1)
        return {"balanced_accuracy": ratio(ratio(right, gold).sum(-1), (gold > 0).sum(-1))}
