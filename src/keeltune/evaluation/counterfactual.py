"""Texts in which one term stands for another, and words that give a label away: does an answer hang on them?

Source of the substitution: Ribeiro et al. 2020, CheckList, https://arxiv.org/abs/2005.04118 (invariance tests).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from keeltune.data.term_lists import whole_word

PREDICTIVE = 0.9
"""The share of a word's training rows that one label must have for the word to give it away."""

ENOUGH = 20
"""Training rows that a predictive word must be in."""

UNLIKELY = 5.0
"""Standard errors that its label must be commoner in its rows than in all."""

LISTED = 5
"""Predictive words that are looked at."""


def flips(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How often and how far answers moved: {"rows", "flips", "flip_rate", "interval", "mean_change"}.

    Each answer is {"prediction", "probabilities"}; `interval` is Wilson's 95 % one of the rate; `mean_change` is the
    mean of |Δp| of what was answered before (of several labels: of the one that moved most).
    """
    flipped = sum(a["prediction"] != b["prediction"] for a, b in zip(before, after, strict=True))
    changes = [_probability_change(a, b) for a, b in zip(before, after, strict=True)]
    return {
        "rows": len(changes),
        "flips": flipped,
        **rate(flipped, len(changes)),
        "mean_change": sum(changes) / len(changes) if changes else None,
    }


def rate(count: int, rows: int) -> dict[str, Any]:
    """A share of rows with Wilson's 95 % interval; null where there are none.

    (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n): Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.
    scipy.stats has it too, and takes one to two seconds to be imported.
    """
    if not rows:
        return {"flip_rate": None, "interval": None}
    share, z = count / rows, NormalDist().inv_cdf(0.975)
    middle, half = share + z * z / (2 * rows), z * math.sqrt((share * (1 - share) + z * z / (4 * rows)) / rows)
    low, high = ((middle + way * half) / (1 + z * z / rows) for way in (-1, 1))
    return {"flip_rate": share, "interval": [low if count else 0.0, high if count < rows else 1.0]}


def _probability_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    old, new = before["probabilities"], after["probabilities"]
    if isinstance(before["prediction"], str):
        return abs(old[before["prediction"]] - new[before["prediction"]])
    return max(abs(old[name] - new[name]) for name in old)


@dataclass(frozen=True)
class PredictiveWord:
    """A word that nearly only one label's training rows have."""

    word: str
    label: str
    rows: int
    share: float


def predictive_words(texts: Sequence[str], labels: Sequence[str]) -> list[PredictiveWord]:
    """The words that give a label away most clearly: planted ones, leaks of the source, or honest ones.

    Of n rows with a word k have the label of frequency f: k / n ≥ `PREDICTIVE` and
    (k − nf) / √(nf(1 − f)) > `UNLIKELY`.
    Whether a word should decide is for the user to say.
    """
    frequency = {label: n / len(labels) for label, n in Counter(labels).items()}
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for text, label in zip(texts, labels, strict=True):
        for word in set(words_of(text)):
            seen[word][label] += 1
    ranked = []
    for word, counts in seen.items():
        rows = counts.total()
        (label, k), *_ = counts.most_common(1)
        f = frequency[label]
        if rows < ENOUGH or k < PREDICTIVE * rows or f >= 1:
            continue
        surprise = (k - rows * f) / math.sqrt(rows * f * (1 - f))
        if surprise > UNLIKELY:
            ranked.append((surprise, PredictiveWord(word, label, rows, k / rows)))
    return [word for _, word in sorted(ranked, key=lambda pair: (-pair[0], pair[1].word))[:LISTED]]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; where it is written without spaces, its characters in pairs."""
    words = []
    for run in re.findall(r"\w+", text.lower()):
        wide = any(ord(letter) > 0x2E7F for letter in run)
        words += [run[i : i + 2] for i in range(len(run) - 1)] if wide else [run]
    return words


def without(text: str, word: str) -> str:
    """A text without a word."""
    return " ".join(re.sub(whole_word(word), " ", text, flags=re.IGNORECASE).split())
