from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics.bleu import ORDER, n_gram_statistics
from keeltune.tasks.metrics.metric import Metric
from keeltune.utils.text import canonical, fold_case, plain_width, tokens

SMALL, TINY = 1e-9, 1e-15
"""What pycocoevalcap adds below and above in a precision, so that 0 / 0 is 0."""


class CaptionBleu(Metric):
    """BLEU-4 of captions, 0..1: n-grams by sacrebleu, the captions' closest length, and pycocoevalcap's formula.

    Words are Unicode's, in lower case without punctuation, a character where a script sets no spaces. Where no caption
    has as many as four words, by the n-grams that there are. Statistics a row: lengths of answer and closest caption,
    n-grams right and in all for n = 1..4, and the caption's n-grams.
    Sources: Papineni et al. 2002, https://aclanthology.org/P02-1040; https://github.com/salaniz/pycocoevalcap.
    """

    names = ("bleu4",)
    answers = "text"
    library = "pycocoevalcap's formula on sacrebleu's counts"

    @property
    def width(self) -> int:
        return 2 + 3 * ORDER

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        return n_gram_statistics(words, values, golds)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        return {"bleu4": _bleu(np.asarray(sums, dtype=np.float64), TINY, SMALL)}

    def row_score(self, value: Any, gold: Any) -> float:
        """BLEU-4 of the one answer, 0..1, each count of n > 1 one higher (Lin and Och 2004)."""
        return float(_bleu(self.statistics([value], [gold])[0], np.array([0, 1, 1, 1]), np.array([SMALL, 1, 1, 1])))


def words(text: str) -> str:
    """The words that are counted, with a space between: Unicode's, in lower case, without punctuation."""
    return " ".join(fold_case(word) for word in tokens(plain_width(canonical(text))))


def _bleu(sums: np.ndarray, above: Any, below: Any) -> np.ndarray:
    """brevity · (Π (right + above) / (all + below))^¼, as pycocoevalcap's BleuScorer has it; sums [..., 2 + 12]."""
    answer, closest = sums[..., 0], sums[..., 1]
    right, total, there = (sums[..., 2 + k * ORDER : 2 + (k + 1) * ORDER] for k in range(3))
    precision = np.where(there > 0, (right + above) / (total + below), 1.0)
    mean = precision.prod(-1) ** (1 / np.maximum((there > 0).sum(-1), 1))
    lengths = (answer + TINY) / (closest + SMALL)
    with np.errstate(over="ignore"):
        return np.asarray(mean * np.where(lengths < 1, np.exp(1 - 1 / lengths), 1.0))
