from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics.metric import Metric


class Brier(Metric):
    """The Brier score of a label's probabilities, mean Σ_c (p_c − [c = y])², 0 to 2: how right, and how rightly sure.

    Of several labels a row each is a choice of yes and no. Statistics of a row: its sum over its predictions, and how
    many predictions it has.
    Source: Brier 1950, https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2.
    """

    names = ("brier",)
    answers = "probabilities"
    higher_is_better = False
    scale = None
    scores_single_rows = False
    library = "the formula, in float64"

    @property
    def width(self) -> int:
        return 2

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        """`values`: {label: probability} of each row."""
        table = [self._row(value, gold) for value, gold in zip(values, golds, strict=True)]
        return np.array(table, dtype=np.float64).reshape(len(table), 2)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        return {"brier": sums[..., 0] / np.maximum(sums[..., 1], 1)}

    def _row(self, value: Mapping[str, float], gold: Any) -> tuple[float, float]:
        if self.settings.multi_label:
            return 2 * sum((p - (name in gold)) ** 2 for name, p in value.items()), float(len(value))
        return sum((p - (name == gold)) ** 2 for name, p in value.items()), 1.0
