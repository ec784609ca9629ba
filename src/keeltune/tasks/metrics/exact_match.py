from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics.metric import Metric, right_answers
from keeltune.utils.text import canonical, plain_width


class ExactMatch(Metric):
    """The share of answers that are a right one, white space and Unicode's form apart.

    Statistics a row: 1 if it is, and 1.
    """

    names = ("exact_match",)
    answers = "text"

    library = "keeltune, case and punctuation count"

    @property
    def width(self) -> int:
        return 2

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        hits = [
            [float(any(_form(value) == _form(right) for right in right_answers(gold))), 1.0]
            for value, gold in zip(values, golds, strict=True)
        ]
        return np.array(hits).reshape(len(hits), 2)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        return {"exact_match": sums[..., 0] / np.maximum(sums[..., 1], 1)}


def _form(text: str) -> list[str]:
    return plain_width(canonical(text)).split()
