from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics.metric import Metric, right_answers
from keeltune.utils.text import HAN, apart

ARTICLES = re.compile(r"\b(a|an|the)\b")

PUNCTUATION = str.maketrans("", "", string.punctuation)


class Squad(Metric):
    """F1 of words and exact match, 0..1, by the rules of SQuAD: lower case, no punctuation, no articles.

    The best of a row's answers counts; a row without an answer scores 1 for an empty prediction, else 0. Chinese is
    compared by character, without any punctuation. Statistics a row: F1, exact match and 1.
    Sources: Rajpurkar et al. 2016, https://aclanthology.org/D16-1264, and 2018, https://aclanthology.org/P18-2124;
    characters: Cui et al. 2019, CMRC 2018, https://aclanthology.org/D19-1600, whose own F1 counts the longest common
    run of characters where this counts the characters in common.
    """

    names = ("f1", "exact_match")
    answers = "text"
    library = "the rules of SQuAD 1.1 and 2.0"

    @property
    def width(self) -> int:
        return 3

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        table = [[*_best_match(value, right_answers(gold)), 1.0] for value, gold in zip(values, golds, strict=True)]
        return np.array(table, dtype=np.float64).reshape(len(table), 3)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        return {name: sums[..., i] / np.maximum(sums[..., -1], 1) for i, name in enumerate(self.names)}


def _words(text: str) -> list[str]:
    """A text's words as SQuAD counts them; characters where it has Chinese ones, then without their punctuation too."""
    text = text.lower().translate(PUNCTUATION)
    if HAN.search(text):
        return apart("".join(c for c in text if unicodedata.category(c)[0] != "P")).split()
    return ARTICLES.sub(" ", text).split()


def _best_match(value: str, answers: Sequence[str]) -> tuple[float, float]:
    """F1 and exact match, each the best over the answers; answers without a word do not count, as in SQuAD 2.0."""
    predicted = _words(value)
    references = [words for words in map(_words, answers) if words] or [[]]
    return max(_f1(predicted, reference) for reference in references), float(predicted in references)


def _f1(predicted: Sequence[str], reference: Sequence[str]) -> float:
    """2 · words in common / all words of both; 1 where neither has any."""
    common = (Counter(predicted) & Counter(reference)).total()
    both = len(predicted) + len(reference)
    return 2 * common / both if both else 1.0
