from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics.metric import Metric, right_answers
from keeltune.utils.text import UNSPACED, apart, canonical, fold_case, plain_width

ARTICLES = re.compile(r"\b(a|an|the)\b")

PUNCTUATION = str.maketrans("", "", string.punctuation)

Words = Callable[[str], list[str]]


class Squad(Metric):
    """F1 of words and exact match, 0..1, by the rules of SQuAD: lower case, no punctuation, no articles.

    These are English's. Other languages have no articles here, punctuation is Unicode's, and a character is a word
    where words have no spaces, as CMRC 2018 and MLQA cut Chinese. The best of a row's answers counts; a row without an
    answer scores 1 for an empty prediction, else 0. Statistics a row: F1, exact match and 1.
    Sources: Rajpurkar et al. 2016, https://aclanthology.org/D16-1264, and 2018, https://aclanthology.org/P18-2124;
    characters: Cui et al. 2019, CMRC 2018, https://aclanthology.org/D19-1600, whose own F1 counts the longest common
    run of characters where this counts the characters in common, as MLQA does (Lewis et al. 2020,
    https://aclanthology.org/2020.acl-main.653).
    """

    names = ("f1", "exact_match")
    answers = "text"
    reads_language = True
    library = "the rules of SQuAD 1.1 and 2.0; no articles but English ones"

    @property
    def width(self) -> int:
        return 3

    @property
    def signature(self) -> str:
        language = self.settings.language
        if language is None:
            return "tok:by language"
        if language.base == "en":
            return "tok:squad|case:lower|articles:no|punctuation:no"
        return f"tok:{'spaces' if language.spaced else 'graphemes'}|case:folded|punctuation:no"

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        language = self.language(golds)

        def other(text: str) -> list[str]:
            return without_punctuation(fold_case(plain_width(canonical(text)), language.base))

        cut = english if language.base == "en" else other
        table = [[*best_match(value, right_answers(gold), cut), 1.0] for value, gold in zip(values, golds, strict=True)]
        return np.array(table, dtype=np.float64).reshape(len(table), 3)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        return {name: sums[..., i] / np.maximum(sums[..., -1], 1) for i, name in enumerate(self.names)}


def english(text: str) -> list[str]:
    """A text's words as SQuAD counts them; where it has characters of a script without spaces, those one by one."""
    text = plain_width(canonical(text))
    if UNSPACED.search(text):
        return without_punctuation(fold_case(text))
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def without_punctuation(text: str) -> list[str]:
    """What spaces and scripts without them part, once Unicode's punctuation and ASCII's signs are gone."""
    kept = (c for c in text.translate(PUNCTUATION) if unicodedata.category(c)[0] != "P")
    return apart("".join(kept)).split()


def best_match(value: str, answers: Sequence[str], cut: Words) -> tuple[float, float]:
    """F1 and exact match, each the best over the answers; answers without a word do not count, as in SQuAD 2.0."""
    predicted = cut(value)
    references = [found for found in map(cut, answers) if found] or [[]]
    return max(_f1(predicted, reference) for reference in references), float(predicted in references)


def _f1(predicted: Sequence[str], reference: Sequence[str]) -> float:
    """2 · words in common / all words of both; 1 where neither has any."""
    common = (Counter(predicted) & Counter(reference)).total()
    both = len(predicted) + len(reference)
    return 2 * common / both if both else 1.0
