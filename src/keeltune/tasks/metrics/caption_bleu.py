from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics.metric import Metric, right_answers
from keeltune.utils.text import apart

ORDER = 4
"""The longest n-grams."""

SMALL, TINY = 1e-9, 1e-15
"""What pycocoevalcap adds below and above in a precision, so that 0 / 0 is 0."""


class CaptionBleu(Metric):
    """BLEU-4 of captions, 0..1: n-grams by sacrebleu, the captions' closest length, and pycocoevalcap's formula.

    Words are in lower case without punctuation, Chinese by character. Statistics a row: lengths of answer and closest
    caption, n-grams right and in all for n = 1..4.
    Sources: Papineni et al. 2002, https://aclanthology.org/P02-1040; https://github.com/salaniz/pycocoevalcap.
    """

    names = ("bleu4",)
    answers = "text"
    library = "pycocoevalcap's formula on sacrebleu's counts"

    @property
    def width(self) -> int:
        return 2 + 2 * ORDER

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        from sacrebleu.metrics import BLEU

        bleu = BLEU(tokenize="none", force=True)
        table = []
        for value, gold in zip(values, golds, strict=True):
            captions = [words(caption) or caption.lower() for caption in right_answers(gold)]
            table.append(bleu._extract_corpus_statistics([words(value)], [[caption] for caption in captions])[0])
        return np.array(table, dtype=np.float64).reshape(len(table), self.width)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        return {"bleu4": _bleu(np.asarray(sums, dtype=np.float64), TINY, SMALL)}

    def row_score(self, value: Any, gold: Any) -> float:
        """BLEU-4 of the one answer, 0..1, each count of n > 1 one higher (Lin and Och 2004)."""
        return float(_bleu(self.statistics([value], [gold])[0], np.array([0, 1, 1, 1]), np.array([SMALL, 1, 1, 1])))


def words(text: str) -> str:
    """The words that are counted, with a space between: lower case, no punctuation, Chinese by character."""
    return " ".join(re.findall(r"\w+(?:['’]\w+)*", apart(text.lower())))


def _bleu(sums: np.ndarray, above: Any, below: Any) -> np.ndarray:
    """brevity · (Π (right + above) / (all + below))^¼, as pycocoevalcap's BleuScorer has it; sums [..., 2 + 8]."""
    answer, closest = sums[..., 0], sums[..., 1]
    right, total = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    mean = ((right + above) / (total + below)).prod(-1) ** (1 / ORDER)
    lengths = (answer + TINY) / (closest + SMALL)
    with np.errstate(over="ignore"):
        return np.asarray(mean * np.where(lengths < 1, np.exp(1 - 1 / lengths), 1.0))
