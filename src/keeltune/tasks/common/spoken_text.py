"""How transcripts are compared: normalised by our rules, or by Whisper's own normaliser (`evaluation.normalizer`)."""

from __future__ import annotations

import unicodedata
from functools import cached_property
from typing import Any

from keeltune.tasks.common.language import Language
from keeltune.tasks.common.settings import Settings
from keeltune.utils.text import canonical, fold_case

NORMALISER = "lower case, no punctuation, one space"

ENGLISH = "Whisper's English: numbers in digits, contractions written out, one spelling, no fillers and no punctuation"
OTHERS = "Whisper's of other languages: lower case, no signs, nothing in brackets"
UNSPELT = "; British spellings stay, as the tokenizer has no normalizer.json"


def normalised(text: str, language: str = "") -> str:
    """`canonical`, lower case, no punctuation (Unicode's classes P), one space between words."""
    folded = fold_case(canonical(text), language, fully=False)
    letters = (c for c in folded if not unicodedata.category(c).startswith("P"))
    return " ".join("".join(letters).split())


class SpokenText:
    """The normaliser of one run: `name(language)` says which, and a call normalises a text.

    `whisper`: EnglishTextNormalizer for English, with the table of spellings of the tokenizer (normalizer.json), and
    BasicTextNormalizer for other languages, both of transformers. A text of which they leave nothing is compared as
    nothing. Source: Radford et al. 2022, appendix C, https://arxiv.org/abs/2212.04356.
    """

    def __init__(self, settings: Settings):
        self.by_whisper, self.spellings = settings.normalizer == "whisper", settings.spellings

    def name(self, language: Language | None) -> str:
        """In words, as result.json and the report have it; English where no language is known yet."""
        if not self.by_whisper:
            return NORMALISER
        if language is not None and language.base != "en":
            return OTHERS
        return ENGLISH if self.spellings else ENGLISH + UNSPELT

    def __call__(self, text: str, language: str = "") -> str:
        if not self.by_whisper:
            return normalised(text, language)
        normalise = self._english if language == "en" else self._basic
        return " ".join(str(normalise(canonical(text))).split())

    @cached_property
    def _english(self) -> Any:
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        return EnglishTextNormalizer(dict(self.spellings or {}))

    @cached_property
    def _basic(self) -> Any:
        from transformers.models.whisper.english_normalizer import BasicTextNormalizer

        return BasicTextNormalizer()
