from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from keeltune.tasks.common.spoken_text import SpokenText
from keeltune.tasks.metrics.metric import Metric, right_answers
from keeltune.utils.text import together


class CharacterErrorRate(Metric):
    """CER, 0 and up, less is better: character errors / characters, summed over the rows, as jiwer counts them.

    Both sides are normalised as for WER; spaces are characters, but for those beside characters of scripts that set
    none, which mean nothing. Of several right texts the one with the fewest errors
    counts. Statistics a row: errors, characters.
    """

    names = ("cer",)
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
        return f"jiwer|{self.normalise.name(self.settings.language)}|spaces: not beside scripts without"

    @property
    def width(self) -> int:
        return 2

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        base = self.language(golds).base

        def letters(text: str) -> str:
            return together(self.normalise(text, base))

        table = [
            min(character_errors(letters(text), letters(value)) for text in right_answers(gold))
            for value, gold in zip(values, golds, strict=True)
        ]
        return np.array(table, dtype=np.float64).reshape(len(table), 2)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        sums = np.asarray(sums, dtype=np.float64)
        return {"cer": sums[..., 0] / np.maximum(sums[..., 1], 1)}

    def details(self, sums: np.ndarray) -> dict[str, Any]:
        return {"normaliser": self.normalise.name(self.settings.language)}


def character_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Substitutions, deletions and insertions of characters, and how many characters are right; by jiwer."""
    import jiwer

    size = len(reference)
    if not reference or not hypothesis:  # nothing to align
        return max(size, len(hypothesis)), size
    counts = jiwer.process_characters(reference, hypothesis)
    return counts.substitutions + counts.deletions + counts.insertions, size
