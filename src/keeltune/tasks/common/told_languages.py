"""The languages that a model of several is told to read and to write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from keeltune.models import languages
from keeltune.models.whisper import is_whisper
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.settings import Settings
from keeltune.utils.errors import shown


class ToldLanguages:
    """What a tokenizer is told. `unknown`: names of the recipe that it does not know; `untold`: nobody says which;
    `heard`: nobody says which, and the model hears it itself in each recording, as Whisper of several languages can."""

    def __init__(self, tokenizer: Any, settings: Settings):
        self.tokenizer, self.settings = tokenizer, settings
        self.unknown: list[str] = []
        self.untold = self.heard = False

    def tell(self) -> None:
        """Tells the tokenizer in which languages it reads and writes.

        The recipe's; else those that the model was trained for, as its tokenizer or its settings say.
        """
        self.untold, self.heard, self.unknown = False, False, []
        tokenizer, stored = self.tokenizer, self.settings.stored
        known = languages.language_tokens(tokenizer)
        if not known:
            return
        names = {i: name for name, i in known.items()}
        told = self.settings.languages
        spelt = [languages.spelt(name, known) for name in told or ()]
        source, target = spelt if told and None not in spelt else (None, None)
        if target is None:
            forced = [
                getattr(stored, "forced_bos_token_id", None),
                *dict(getattr(stored, "forced_decoder_ids", None) or ()).values(),
                getattr(stored, "decoder_start_token_id", None),  # mBART's, where it is a language
            ]
            hears = is_whisper(tokenizer) and hears_languages(stored)
            own = [
                getattr(tokenizer, "tgt_lang", None),
                None if hears else getattr(tokenizer, "language", None),  # `generate` does not look at it
                getattr(stored, "language", None),
            ]
            meant = next((name for name in (*own, *map(names.get, forced)) if name), None)
            target, source = languages.spelt(meant, known) if meant else None, getattr(tokenizer, "src_lang", None)
            if hears:
                self.heard = target is None
                task = getattr(stored, "task", None) or "transcribe"
                languages.tell(tokenizer, None, target or next(iter(known)), task=task)
                return
            if target is None and hasattr(tokenizer, "tgt_lang"):  # of one language, or a fault is reported
                self.untold, target = True, source or next(iter(known))
            languages.tell(tokenizer, source or target, target, task=getattr(stored, "task", None))
        elif is_whisper(tokenizer) and languages.spelt("English", known) == target != source:
            languages.tell(tokenizer, source, source, task="translate")  # its language is the one that is spoken
        else:
            languages.tell(tokenizer, source, target, task="transcribe" if source == target else "translate")
        self.unknown = [name for name, known_as in zip(told or (), spelt, strict=True) if known_as is None]

    def faults(self, *, needed: bool = False) -> list[Fault]:
        """What is wrong with the recipe's `languages` for this model; `needed`: a model of several must be told."""
        known = languages.language_tokens(self.tokenizer)
        expected = f"one of its {len(known)} languages, such as {', '.join(sorted(known)[:8])}"
        if self.settings.languages and not known:
            found, fix = f"{' to '.join(self.settings.languages)}, for a model that is not told any", "leave it out"
            return [Fault("languages", "unknown language", found, "nothing: the model has its languages already", fix)]
        if needed and self.untold and not self.settings.languages:
            fix = "write languages: {source: English, target: German}"
            return [Fault("languages", "no languages", "nothing, for a model of several languages", expected, fix)]
        return [
            Fault("languages", "unknown language", shown(name), expected,
                  f"write its name, or its code{languages.nearest_language(name, known)}")
            for name in self.unknown
        ]  # fmt: skip


def hears_languages(stored: Any) -> bool:
    """Whether a model tells the language of a recording, by the settings of its `generate`."""
    return bool(getattr(stored, "is_multilingual", False) and getattr(stored, "lang_to_id", None))


def listed(languages_heard: Mapping[str, str]) -> str:
    """How many recordings are of which language, as `en 12, de 3`."""
    return ", ".join(f"{name} {count}" for name, count in Counter(languages_heard.values()).most_common())
