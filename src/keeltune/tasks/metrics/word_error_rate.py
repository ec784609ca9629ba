from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keeltune.tasks.metrics.metric import Metric, right_answers
from keeltune.utils.text import apart, canonical, fold_case

NORMALISER = "lower case, no punctuation, one space"


class WordErrorRate(Metric):
    """WER, 0 and up, less is better: word errors / words, summed over the rows, as jiwer counts them.

    Both sides are normalised first: one Unicode form, lower case, no punctuation, one space between words; scripts
    without spaces have a character for a word. Of several right texts the one with the fewest errors counts.
    Statistics a row: errors, words.
    Source: Morris, Maier and Green 2004, https://www.isca-archive.org/interspeech_2004/morris04_interspeech.html.
    """

    names = ("wer",)
    answers = "text"
    higher_is_better = False
    reads_language = True
    library = "jiwer"

    @property
    def signature(self) -> str:
        language = self.settings.language
        unit = "by script" if language is None else "words" if language.spaced else "graphemes"
        return f"jiwer|{NORMALISER}|tok:{unit}"

    def misfits(self, texts: Sequence[str]) -> Iterator[str]:
        language = self.language(texts)
        if not language.spaced:
            yield f"{language.code} has no spaces between words: WER is counted by character, read CER"

    @property
    def width(self) -> int:
        return 2

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        base = self.language(golds).base
        table = [
            min(word_errors(" ".join(words(text, base)), " ".join(words(value, base))) for text in right_answers(gold))
            for value, gold in zip(values, golds, strict=True)
        ]
        return np.array(table, dtype=np.float64).reshape(len(table), 2)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        sums = np.asarray(sums, dtype=np.float64)
        return {"wer": sums[..., 0] / np.maximum(sums[..., 1], 1)}

    def details(self, sums: np.ndarray) -> dict[str, Any]:
        return {"normaliser": NORMALISER}


def normalised(text: str, language: str = "") -> str:
    """`canonical`, lower case, no punctuation (Unicode's classes P), one space between words."""
    folded = fold_case(canonical(text), language, fully=False)
    letters = (c for c in folded if not unicodedata.category(c).startswith("P"))
    return " ".join("".join(letters).split())


def words(text: str, language: str = "") -> list[str]:
    """The words that WER counts; a character each of scripts without spaces."""
    return apart(normalised(text, language)).split()


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Substitutions, deletions and insertions of words, and how many words are right; by jiwer."""
    import jiwer

    size = len(reference.split())
    if not reference or not hypothesis:  # nothing to align
        return max(size, len(hypothesis.split())), size
    counts = jiwer.process_words(reference, hypothesis)
    return counts.substitutions + counts.deletions + counts.insertions, size
