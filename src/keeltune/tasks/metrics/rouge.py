from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import regex

from keeltune.tasks.common.language import Language
from keeltune.tasks.metrics.metric import Metric, right_answers
from keeltune.utils.text import canonical, fold_case, plain_width, tokens, words

OTHER_SCRIPT = regex.compile(r"(?V1)[\p{L}--\p{Latin}]")


class Rouge(Metric):
    """ROUGE-L, ROUGE-1, ROUGE-2: F-measures 0..1 by rouge-score, of the words of any script.

    English is cut and stemmed as rouge-score does it, and words of other scripts count as they stand. Other
    languages: Unicode's words, case folded, without punctuation and stems; a character where words have no spaces. An
    answer of a right text's very words scores 1, also ROUGE-2 of a single word, where rouge-score says 0. Of several
    right texts the one that scores best counts. Statistics a row: its three F-measures and 1.
    Source: Lin 2004, https://aclanthology.org/W04-1013.
    """

    names = ("rougeL", "rouge1", "rouge2")
    answers = "text"
    reads_language = True
    library = "rouge-score, its stemmer for English, Unicode words for others"

    @property
    def width(self) -> int:
        return len(self.names) + 1

    @property
    def signature(self) -> str:
        from importlib.metadata import version

        language = self.settings.language
        if language is None:
            rules = "by language"
        elif language.base == "en":
            rules = "rouge-score|stem:porter"
        else:
            rules = f"{'unicode-words' if language.spaced else 'graphemes'}|case:folded|stem:no"
        return f"f-measure|best of references|tok:{rules}|version:{version('rouge-score')}"

    @cached_property
    def english(self) -> Any:
        from rouge_score.tokenizers import DefaultTokenizer

        return DefaultTokenizer(use_stemmer=True)

    def words_in(self, language: Language) -> Callable[[str], list[str]]:
        """What cuts a text of the language into the words that are compared."""

        def english(text: str) -> list[str]:
            text = plain_width(canonical(text))
            stems = [s for word in words(text) for s in self.english.tokenize(word) or _foreign(word)]
            return stems or [fold_case(token) for token in tokens(text)]

        def other(text: str) -> list[str]:
            return [fold_case(word, language.base) for word in tokens(plain_width(canonical(text)))]

        return english if language.base == "en" else other

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        from rouge_score.rouge_scorer import RougeScorer

        cut = self.words_in(self.language(golds))

        class Tokens:
            """The words as rouge-score asks for them; it joins its own with spaces, which no word has."""

            def tokenize(self, text: str) -> list[str]:
                return text.split()

        scorer = RougeScorer(list(self.names), tokenizer=Tokens())
        table = []
        for value, gold in zip(values, golds, strict=True):
            answer, right = " ".join(cut(value)), [" ".join(cut(text)) for text in right_answers(gold)]
            best = scorer.score_multi(right, answer)
            row = [1.0] * len(self.names) if answer in right else [best[name].fmeasure for name in self.names]
            table.append([*row, 1.0])
        return np.array(table).reshape(len(table), len(self.names) + 1)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        return {name: sums[..., i] / np.maximum(sums[..., -1], 1) for i, name in enumerate(self.names)}


def _foreign(word: str) -> list[str]:
    """A word of which rouge-score sees no letter, where it is of another script than Latin."""
    return [fold_case(word)] if OTHER_SCRIPT.search(word) else []
