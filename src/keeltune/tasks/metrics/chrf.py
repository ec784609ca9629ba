from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics.metric import Metric, ratio, right_answers
from keeltune.utils.text import canonical, plain_width

CHARACTERS = 6
"""The longest n-grams of characters."""

BETA = 2.0
"""How much more recall weighs than precision."""


class Chrf(Metric):
    """chrF, 0..100, by sacrebleu: 100 · F_2 of character n-grams.

    Precision and recall are averaged over the n that both sides have. Texts are compared in one Unicode form and width,
    with the joiners of Persian and Indic spelling. Statistics a row: n-grams of characters of
    hypothesis and reference, and those in common, for n = 1..6. Source: Popović 2015, https://aclanthology.org/W15-3049.
    """

    names = ("chrf",)
    answers = "text"
    scale = 100.0
    library = "sacrebleu, case:mixed|eff:yes|nc:6|nw:0|space:no"

    @property
    def signature(self) -> str:
        import sacrebleu

        return f"case:mixed|eff:yes|nc:6|nw:0|space:no|version:{sacrebleu.__version__}"

    @property
    def width(self) -> int:
        return 3 * CHARACTERS

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        from sacrebleu.metrics import CHRF

        chrf = CHRF()

        def form(text: str) -> str:
            return plain_width(canonical(text, joiners=True))

        table = [
            chrf._extract_corpus_statistics([form(value)], [[form(text)] for text in right_answers(gold)])[0]
            for value, gold in zip(values, golds, strict=True)
        ]
        return np.array(table, dtype=np.float64).reshape(len(table), self.width)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        sums = np.asarray(sums, dtype=np.float64)
        parts = sums.reshape(*sums.shape[:-1], CHARACTERS, 3)
        hypothesis, reference, matched = parts[..., 0], parts[..., 1], parts[..., 2]
        both = (hypothesis > 0) & (reference > 0)
        precision, recall = (
            np.divide(matched, whole, out=np.zeros_like(matched), where=both).sum(-1) / np.maximum(both.sum(-1), 1)
            for whole in (hypothesis, reference)
        )
        below = BETA**2 * precision + recall
        return {"chrf": np.asarray(100 * ratio((1 + BETA**2) * precision * recall, below))}
