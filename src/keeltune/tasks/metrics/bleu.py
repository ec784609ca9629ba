from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics.metric import Metric, right_answers
from keeltune.utils.text import is_chinese

ORDER = 4
"""The longest n-grams."""


class Bleu(Metric):
    """BLEU, 0..100, by sacrebleu: tokens `13a`, and `zh` for Chinese.

    Statistics a row: lengths of hypothesis and reference, n-grams right and in all for n = 1..4; their sums give the
    corpus's score. Source: Post 2018, https://aclanthology.org/W18-6319.
    """

    names = ("bleu",)
    answers = "text"
    scale = 100.0
    scores_single_rows = False
    library = "sacrebleu, case:mixed|eff:no|tok:13a (zh for Chinese)|smooth:exp"

    @property
    def width(self) -> int:
        return 2 + 2 * ORDER

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        from sacrebleu.metrics import BLEU

        references = [right_answers(gold) for gold in golds]
        chinese = is_chinese(" ".join(text for texts in references[:200] for text in texts))
        bleu = BLEU(tokenize="zh" if chinese else "13a", force=True)
        table = [
            bleu._extract_corpus_statistics([value], [[text] for text in texts])[0]
            for value, texts in zip(values, references, strict=True)
        ]
        return np.array(table, dtype=np.float64).reshape(len(table), self.width)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """100 · brevity · exp(mean log precision), an n without a match smoothed as sacrebleu does (method exp)."""
        sums = np.asarray(sums, dtype=np.float64)
        hypothesis, reference = sums[..., 0], sums[..., 1]
        right, total = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
        misses = np.cumsum((right == 0) & (total > 0), axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(right > 0, right, 0.5**misses) / total
            mean = np.where(total > 0, np.log(precision), -np.inf).mean(-1)
            brevity = np.where(hypothesis < reference, np.exp(1 - reference / hypothesis), 1.0)
            value = 100 * brevity * np.exp(mean)
        return {"bleu": np.where((right.sum(-1) > 0) & (hypothesis > 0), value, 0.0)}
