from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics.caption_bleu import words
from keeltune.tasks.metrics.metric import Metric, right_answers

ORDER = 4
"""The longest n-grams."""


class Cider(Metric):
    """CIDEr-D by pycocoevalcap, from 0 to 10.

    It is above 0 only where several rows are scored, as an n-gram's weight is log(rows / rows whose right texts have
    it). Words are Unicode's, in lower case without punctuation, a character where a script sets no spaces; no Java, so
    that figures are near those of the PTB tokenizer and not the same. Statistics a row: its CIDEr and 1. An interval
    takes the weights of the n-grams as those of the whole set. Source: Vedantam et al. 2015, https://arxiv.org/abs/1411.5726.
    """

    names = ("cider",)
    answers = "text"
    scale = 10.0
    scores_single_rows = False
    requires = "pycocoevalcap"
    library = "pycocoevalcap"

    @property
    def width(self) -> int:
        return 2

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        from pycocoevalcap.cider.cider_scorer import CiderScorer

        if not values:
            return np.zeros((0, 2))
        cider = CiderScorer(n=ORDER, sigma=6.0)
        for value, gold in zip(values, golds, strict=True):
            cider += (words(value), [words(text) for text in right_answers(gold)])
        return np.array([[score, 1.0] for score in cider.compute_score()[1]], dtype=np.float64)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        sums = np.asarray(sums, dtype=np.float64)
        return {"cider": sums[..., 0] / np.maximum(sums[..., 1], 1)}
