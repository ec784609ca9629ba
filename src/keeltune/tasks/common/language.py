"""The language that a data set is scored in: named by the recipe, or told once from its texts, never text by text.

What a language decides is little, as words are found in any script (`utils/text.py`): the rules that are English alone
(stems, articles), the tokenizer that sacrebleu has for it, and the Turkish i.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

import regex

from keeltune.models.languages import tag_of
from keeltune.utils.text import UNSPACED

Item = TypeVar("Item")

NAMED: Literal["named"] = "named"
DETECTED: Literal["detected"] = "detected"
ASSUMED: Literal["assumed"] = "assumed"

SURE, UNLIKELY = 0.5, 0.01
"""The probability from which a language is believed; how many times likelier than English one below it must be."""

LEAST = 40
"""Letters below which Latin text is taken for English: names and numbers look like any language."""

DOMINANT = 1 / 3
"""The share of a script's letters from which a text counts as one of it: words of Latin letters stand in any text."""

KANA = 1 / 20
"""The share of kana among Japanese and Chinese characters from which they are Japanese."""

SAMPLE, EXCERPT = 200, 400
"""How many texts are looked at, evenly spread, and how many characters of each."""

SCRIPTS = {
    "th": r"\p{Thai}", "lo": r"\p{Lao}", "km": r"\p{Khmer}", "my": r"\p{Myanmar}", "bo": r"\p{Tibetan}",
    "ii": r"\p{Yi}", "jv-Java": r"\p{Javanese}", "ban-Bali": r"\p{Balinese}", "ko": r"\p{Hangul}",
}  # fmt: skip
"""Languages that are told by their script; with `und-None` those without spaces whose language stays open."""

WITHOUT_SPACES = frozenset({"zh", "yue", "wuu", "ja", "th", "lo", "km", "my", "shn", "bo", "dz", "ii", "und-None"})
SCRIPTS_WITHOUT_SPACES = frozenset(
    {"Hans", "Hant", "Hani", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Yiii", "Java", "Bali", "Lana", "Talu"}
)


@dataclass(frozen=True)
class Language:
    """`code`: ISO 639, with the script where that matters (`zh-Hant`); `by`: how it is known."""

    code: str
    by: Literal["named", "detected", "assumed"] = "named"

    @property
    def base(self) -> str:
        """The code without script and region."""
        return self.code.split("-")[0]

    @property
    def spaced(self) -> bool:
        """Whether its words have spaces between them."""
        parts = self.code.split("-")
        script = next((part for part in parts[1:] if len(part) == len("Latn")), None)
        if script is not None:
            return script not in SCRIPTS_WITHOUT_SPACES
        return parts[0] not in WITHOUT_SPACES

    def __str__(self) -> str:
        return f"{self.code} ({self.by})"


def named(name: str) -> Language | None:
    """The language of a name (`de`, `zh-Hant`, `deu_Latn`, `de_DE`, German, Deutsch); None where it is of none."""
    import langcodes

    tag = tag_of(name.strip().strip("_<|>"))
    if tag is None:
        return None
    found = langcodes.Language.get(langcodes.standardize_tag(tag, macro=True))
    return Language("-".join(part for part in (found.language, found.script) if part))


def detect(texts: Iterable[str]) -> Language:
    """The language of a data set's texts: by their script, or by py3langid where languages share one.

    English is assumed of Latin letters that are too few to tell. Source: Lui and Baldwin 2012, langid.py,
    https://aclanthology.org/P12-3005.
    """
    text = "\n".join(excerpt[:EXCERPT] for excerpt in texts)
    letters = len(regex.findall(r"\p{L}", text))
    if not letters:
        return Language("en", ASSUMED)
    kana, ideographs = _count(r"[\p{Hiragana}\p{Katakana}]", text), _count(r"\p{Han}", text)
    if kana + ideographs >= DOMINANT * letters:
        return Language("ja" if kana >= KANA * (kana + ideographs) else "zh", DETECTED)
    for code, script in SCRIPTS.items():
        if _count(rf"(?V1)[{script}&&\p{{L}}]", text) >= DOMINANT * letters:
            return Language(code, DETECTED)
    if unspaced_share(text) >= DOMINANT:
        return Language("und-None", DETECTED)
    latin = 2 * _count(r"(?V1)[\p{Latin}&&\p{L}]", text) >= letters
    if latin and letters < LEAST:
        return Language("en", ASSUMED)
    likely = {code: p for code, p in _identifier().rank(text) if code not in ("zxx", "zh", "ja")}
    code = max(likely, key=likely.__getitem__)
    if likely[code] >= SURE or not latin or likely["en"] < UNLIKELY * likely[code]:
        return Language(code, DETECTED)
    return Language("en", ASSUMED)


def sample(parts: Sequence[Sequence[Item]]) -> list[Item]:
    """Up to `SAMPLE` of the texts or rows of all parts, evenly spread over them."""
    step = max(1, sum(map(len, parts)) // SAMPLE)
    chosen, begin = list[Item](), 0
    for part in parts:
        chosen += part[begin::step]
        begin = (begin - len(part)) % step
    return chosen[:SAMPLE]


def unspaced_share(text: str) -> float:
    """The share of letters of scripts without spaces between words, among all letters."""
    letters = regex.findall(r"\p{L}", text)
    return sum(UNSPACED.match(letter) is not None for letter in letters) / len(letters) if letters else 0.0


def _count(pattern: str, text: str) -> int:
    return len(regex.findall(pattern, text))


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
