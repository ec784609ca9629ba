"""The languages that a multilingual tokenizer has a token for, under every usual name.

    mBART de_DE   NLLB deu_Latn   M2M100 de (__de__)   SeamlessM4T deu (__deu__)   Whisper de (<|de|>)

A user writes German, de, de-DE, deu or deu_Latn; which of the tokenizer's languages is meant, `langcodes` says by the
distances of CLDR (Chinese in Taiwan is written as zho_Hant, Norwegian read as nob). Source:
https://www.unicode.org/reports/tr35/#LanguageMatching.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from keeltune.models.whisper import is_whisper
from keeltune.utils.errors import nearest

FORMS = r"__(\w{2,3}(?:_\w{4})?)__|<\|([a-z]{2,3})\|>|([a-z]{2,3}_(?:[A-Z][a-z]{3}|[A-Z]{2}))"
"""Tokens that name a language, where a tokenizer has no table of them."""

NEAR, FAR = 10, 60
"""Distances of CLDR up to which a language stands for another: the same one; the same one in another script."""


def language_tokens(tokenizer: Any) -> dict[str, int]:
    """The languages that a tokenizer tells its model, as its own settings name them, with their tokens' ids."""
    table = getattr(tokenizer, "lang_code_to_id", None)
    if isinstance(table, Mapping) and table:
        return {str(name): int(i) for name, i in table.items()}
    if not hasattr(tokenizer, "tgt_lang") and not is_whisper(tokenizer):
        return {}
    added = {str(token): i for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    special = {str(token): tokenizer.convert_tokens_to_ids(str(token)) for token in tokenizer.all_special_tokens}
    vocabulary = {} if special.keys() | added.keys() >= {"<|startoftranscript|>"} else tokenizer.get_vocab()
    found = {}
    for token, i in {**vocabulary, **added, **special}.items():
        if match := re.fullmatch(FORMS, token):
            found[next(name for name in match.groups() if name)] = int(i)
    return found


def spelt(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that a language's usual name means; None where none does."""
    import langcodes

    known, plain = list(known), name.strip().strip("_<|>")
    for exact in (name, plain, *(code for code in known if code.casefold() == plain.casefold())):
        if exact in known:
            return exact
    by_tag = {tag: code for code in known if (tag := tag_of(code)) is not None}
    if (tag := tag_of(plain)) is None:
        return None
    nearest = langcodes.closest_supported_match(tag, list(by_tag), max_distance=NEAR)
    if nearest is None:
        same = [
            other for other in by_tag if langcodes.Language.get(other).language == langcodes.Language.get(tag).language
        ]
        nearest = langcodes.closest_supported_match(tag, same, max_distance=FAR) if len(same) == 1 else None
    return None if nearest is None else by_tag[nearest]


def tag_of(name: str) -> str | None:
    """The BCP 47 tag of a language, by its code or its name in English or in itself; None for no language.

    XX is mBART's "in no country".
    """
    import langcodes

    text = re.sub("_XX$", "", name.strip())
    if re.fullmatch(r"[A-Za-z]{2,3}([_-]\w+)*", text) and langcodes.tag_is_valid(text):
        return str(langcodes.Language.get(text))
    try:
        return str(langcodes.find(text))
    except LookupError:
        return None


def in_english(name: str) -> str:
    """A language's English name, by any name or code of it; a name that is none as it is."""
    import langcodes

    tag = tag_of(name)
    return name if tag is None else str(langcodes.Language.get(tag).display_name())


def nearest_language(name: str, known: Iterable[str]) -> str:
    """`; did you mean "German"?` for the closest name of a known language, or nothing."""
    import langcodes

    codes = [langcodes.Language.get(tag).language or tag for code in known if (tag := tag_of(code)) is not None]
    return nearest(name.title(), [*(langcodes.Language.make(language=code).display_name() for code in codes), *known])


def tell(tokenizer: Any, source: str | None, target: str | None, *, task: str | None = None) -> None:
    """Sets the languages in which a tokenizer reads and writes (names of `language_tokens`; None: as they are), and
    of Whisper's whether it transcribes or translates."""
    if is_whisper(tokenizer):
        tokenizer.set_prefix_tokens(language=target, task=task, predict_timestamps=False)
        return
    for attribute, name in (("src_lang", source), ("tgt_lang", target)):
        if hasattr(tokenizer, attribute) and name is not None:
            setattr(tokenizer, attribute, name)


def whisper_opening(tokenizer: Any, given: Iterable[int], *, heard: bool = False) -> dict[str, Any]:
    """How `generate` of a Whisper-type model begins a text with the tokens `given`, as its `GenerationConfig` says it.

    `heard`: the language is the recording's own, for which `generate` listens. Without a language in `given` it is told
    none, and does not look for one: so were its targets.
    """
    given = set(given)
    languages = {f"<|{name}|>": i for name, i in language_tokens(tokenizer).items()}
    vocabulary = tokenizer.get_vocab()
    tasks = {name: vocabulary[f"<|{name}|>"] for name in ("transcribe", "translate") if f"<|{name}|>" in vocabulary}
    language = next((token for token, i in languages.items() if i in given), None)
    task = next((name for name, i in tasks.items() if i in given), None)
    told: dict[str, Any] = {"return_timestamps": False, "is_multilingual": language is not None or task is not None}
    if language is not None:
        told |= {"lang_to_id": languages} if heard else {"language": language, "lang_to_id": languages}
    if task is not None:
        told |= {"task": task}
    if tasks:
        told |= {"task_to_id": tasks}
    if "<|notimestamps|>" in vocabulary:
        told |= {"no_timestamps_token_id": vocabulary["<|notimestamps|>"]}
    return told
