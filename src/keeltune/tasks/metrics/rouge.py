from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from keeltune.tasks.metrics.metric import Metric, right_answers
from keeltune.utils.text import apart, is_chinese


class Rouge(Metric):
    """ROUGE-L, ROUGE-1, ROUGE-2: F-measures 0..1 by rouge-score with its stemmer, Chinese by character.

    Of several right texts the one that scores best counts. Statistics a row: its three F-measures and 1.
    Source: Lin 2004, https://aclanthology.org/W04-1013.
    """

    names = ("rougeL", "rouge1", "rouge2")
    answers = "text"
    library = "rouge-score, use_stemmer=True"

    @property
    def width(self) -> int:
        return len(self.names) + 1

    @cached_property
    def scorer(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

        english = DefaultTokenizer(use_stemmer=True)

        class Tokens:
            """rouge-score's own words, which knows Latin letters and digits alone; Chinese characters one by one."""

            def tokenize(self, text: str) -> list[str]:
                if not is_chinese(text):
                    return list(english.tokenize(text))
                return [t for t in apart(text).split() if any(c.isalnum() for c in t)]

        return RougeScorer(list(self.names), tokenizer=Tokens())

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        table = []
        for value, gold in zip(values, golds, strict=True):
            best = self.scorer.score_multi(right_answers(gold), value)
            table.append([*(best[name].fmeasure for name in self.names), 1.0])
        return np.array(table).reshape(len(table), len(self.names) + 1)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        return {name: sums[..., i] / np.maximum(sums[..., -1], 1) for i, name in enumerate(self.names)}
