from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from keeltune.tasks.common.spoken_text import SpokenText, normalised
from keeltune.tasks.metrics.metric import Metric, right_answers
from keeltune.utils.text import apart


class WordErrorRate(Metric):
    """WER, 0 and up, less is better: word errors / words, summed over the rows, as jiwer counts them.

    Both sides are normalised first: one Unicode form, lower case, no punctuation, one space between words, or as
    `evaluation.normalizer` says; scripts without spaces have a character for a word. Of several right texts the one
    with the fewest errors counts.
    Statistics a row: errors, words.
    Source: Morris, Maier and Green 2004, https://www.isca-archive.org/interspeech_2004/morris04_interspeech.html.
    """

    names = ("wer",)
    answers = "text"
    higher_is_better = False
    reads_language = True
    library = "jiwer"

    @cached_property
    def normalise(self) -> SpokenText:
        """What both sides go through."""
        return SpokenText(self.settings)

    @property
    def signature(self) -> str:
        language = self.settings.language
        unit = "by script" if language is None else "words" if language.spaced else "graphemes"
        return f"jiwer|{self.normalise.name(language)}|tok:{unit}"

    def misfits(self, texts: Sequence[str]) -> Iterator[str]:
        language = self.language(texts)
        if not language.spaced:
            yield f"{language.code} has no spaces between words: WER is counted by character, read CER"

    @property
    def width(self) -> int:
        return 2

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        base = self.language(golds).base

        def plain(text: str) -> str:
            return " ".join(apart(self.normalise(text, base)).split())

        table = [
            min(word_errors(plain(text), plain(value)) for text in right_answers(gold))
            for value, gold in zip(values, golds, strict=True)
        ]
        return np.array(table, dtype=np.float64).reshape(len(table), 2)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        sums = np.asarray(sums, dtype=np.float64)
        return {"wer": sums[..., 0] / np.maximum(sums[..., 1], 1)}

    def details(self, sums: np.ndarray) -> dict[str, Any]:
        return {"normaliser": self.normalise.name(self.settings.language)}


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
