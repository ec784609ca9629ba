from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics.metric import Metric


class Loss(Metric):
    """The cross-entropy of the right answers, Σ CE / n_CE in nats a labelled prediction, and its exponential.

    Every task has both. Statistics are of a row's loss, not of its answer: Σ CE, and how many predictions it is of.
    NaN where it is of none: rows that are answered in parts without a text of their own have no loss, which is not 0.
    """

    names = ("loss", "perplexity")
    answers = "loss"
    higher_is_better = False
    scale = None

    @property
    def width(self) -> int:
        return 2

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        """[rows, 2], of `values` (Σ CE, count); `golds` are not looked at."""
        return np.array(values, dtype=np.float64).reshape(len(values), 2)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        total, count = sums[..., 0], sums[..., 1]
        loss = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count != 0)
        return {"loss": loss, "perplexity": np.exp(np.minimum(loss, 700.0))}

    def row_score(self, value: Any, gold: Any) -> float:
        raise NotImplementedError("a loss is no score of an answer")
