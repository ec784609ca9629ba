from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics._numbers import OfNumbers
from keeltune.tasks.metrics.metric import ratio


class NumericError(OfNumbers):
    """Mean absolute error and root mean squared error, in the unit of the rows; of several numbers the mean over them.

    Statistics a row: |error| and error² of each number in turn, in the deviation of the training targets; and 1.
    """

    names = ("mae", "rmse")
    higher_is_better = False
    scale = None
    library = "checked against scikit-learn"

    @property
    def width(self) -> int:
        return 2 * self.count + 1

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        errors = np.abs(self.standard(values) - self.standard(golds))
        return np.concatenate([errors, errors**2, np.ones((len(errors), 1))], axis=1)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        absolute, squared = sums[..., : self.count], sums[..., self.count : 2 * self.count]
        rows = sums[..., 2 * self.count :]
        return {"mae": (ratio(absolute, rows) * self.deviation).mean(-1),
                "rmse": (np.sqrt(ratio(squared, rows)) * self.deviation).mean(-1)}  # fmt: skip

    def row_score(self, value: Any, gold: Any) -> float:
        """1 / (1 + mean |error| in the deviation of the training targets): 1 where nothing is wrong."""
        return float(1 / (1 + np.abs(self.standard([value]) - self.standard([gold])).mean()))
