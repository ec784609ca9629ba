from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from keeltune.tasks.metrics.metric import Metric, ratio


class Classification(Metric):
    """Accuracy, macro-F1, micro-F1 and Matthews correlation of one label a row, or of several.

    Macro-F1 is the mean over the labels that occur; of several labels a row over all of them, and accuracy is then how
    often the whole set is right. Statistics of a label: how often right, predicted, gold; and one column of rows that
    are right as a whole, one of rows.
    """

    names = ("accuracy", "macro_f1", "micro_f1", "mcc")
    answers = "label"
    library = "checked against scikit-learn"

    @cached_property
    def index(self) -> dict[str, int]:
        """The number of each label."""
        return {name: i for i, name in enumerate(self.settings.labels)}

    @property
    def width(self) -> int:
        return 3 * len(self.index) + 2

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        chosen, right = self._indicators(values), self._indicators(golds)
        whole = (chosen == right).all(-1, keepdims=True)
        return np.concatenate([chosen * right, chosen, right, whole, np.ones_like(whole)], axis=-1).astype(np.float64)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        hits, chosen, gold, whole, rows = self._split(sums)
        f1 = ratio(2 * hits, chosen + gold)
        # scikit-learn's macro average: over the labels that occur; for label indicators over all
        counted = np.ones_like(gold, dtype=bool) if self.settings.multi_label else (chosen + gold) > 0
        return {
            "accuracy": ratio(whole, rows),
            "macro_f1": ratio((f1 * counted).sum(-1), counted.sum(-1)),
            "micro_f1": ratio(2 * hits.sum(-1), (chosen + gold).sum(-1)),
            "mcc": _matthews(hits.sum(-1), rows, chosen, gold),
        }

    def details(self, sums: np.ndarray) -> dict[str, Any]:
        hits, chosen, gold, _, _ = self._split(sums)
        columns = zip(
            self.index, ratio(hits, chosen), ratio(hits, gold), ratio(2 * hits, chosen + gold), gold, strict=True
        )
        return {
            "by_label": {
                name: {"precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
                for name, p, r, f, n in columns
            }
        }

    def row_score(self, value: Any, gold: Any) -> float:
        """1 or 0; of several labels their F1."""
        if not self.settings.multi_label:
            return float(value == gold)
        both = len(set(value)) + len(set(gold))
        return 2 * len(set(value) & set(gold)) / both if both else 1.0

    def _indicators(self, values: Sequence[Any]) -> np.ndarray:
        """Which labels each row names: [rows, L] of 0 and 1."""
        table = np.zeros((len(values), len(self.index)), dtype=bool)
        for i, value in enumerate(values):
            for name in value if self.settings.multi_label else [value]:
                table[i, self.index[name]] = True
        return table

    def _split(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        n = len(self.index)
        return sums[..., :n], sums[..., n : 2 * n], sums[..., 2 * n : 3 * n], sums[..., 3 * n], sums[..., 3 * n + 1]


def _matthews(hits: np.ndarray, rows: np.ndarray, chosen: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Matthews correlation for any number of labels (Gorodkin 2004), 0 where one side is constant."""
    covariance = hits * rows - (chosen * gold).sum(-1)
    spread = (rows**2 - (chosen**2).sum(-1)) * (rows**2 - (gold**2).sum(-1))
    return ratio(covariance, np.sqrt(np.maximum(spread, 0)))
