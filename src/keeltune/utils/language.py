"""The language in which the command speaks: English, or one that has a gettext catalogue.

A sentence is written in English where it is needed, as an f-string, and found again where it is printed: the catalogue
knows it as a template, `{0} of {1} rows`, and matches it with the finished line. So nothing marks a sentence, and what
is written to files, raised to a Python caller or printed as JSON stays English (docs/decisions/0040).
`docs/make_catalogue.py` gathers the templates from the source.
"""

from __future__ import annotations

import gettext
import json
import os
import re
from functools import cache, cached_property
from string import Formatter

from keeltune.utils.messages import LOCALES

DOMAIN = "keeltune"
VARIABLE = "KEELTUNE_LANG"

DEEPEST = 4
"""How deep a sentence may lie in another: a fault's line, what was found, the reason within it."""

TELLING = 8
"""Letters of its own that a sentence has within another one, where `{0} of {1}` would be found in a user's words."""

HEADING = "heading\x04"
"""What gettext puts before a heading of one word, which elsewhere may be a user's own word."""

_NAMED = re.compile(r"\{\{|\}\}|\{([a-z_]\w*)(?:[:!][^{}]*)?\}|[{}]")


def chosen() -> str:
    """The language that `KEELTUNE_LANG` names, else that of the locale; English where there is no catalogue for it."""
    return _catalogued(next((v for n in (VARIABLE, "LC_ALL", "LC_MESSAGES", "LANG") if (v := os.environ.get(n))), ""))


@cache
def _catalogued(named: str) -> str:
    """The language of a locale's name, looked for on the disk once: every printed text asks."""
    language = re.split(r"[_.@-]", named.lower())[0]
    return language if (LOCALES / language / "LC_MESSAGES" / f"{DOMAIN}.mo").is_file() else "en"


def speak(language: str) -> None:
    """Makes libraries that ask gettext, as typer does for its headings, use our catalogue too."""
    if language != "en":
        os.environ["LANGUAGE"] = language
        gettext.bindtextdomain(DOMAIN, str(LOCALES))
        gettext.textdomain(DOMAIN)


@cache
def catalogue(language: str) -> Catalogue:
    """What is said in a language; that of English says everything as it is."""
    return Catalogue({} if language == "en" else _sentences(language))


def said(text: str) -> str:
    """A line in the chosen language; as it is where the catalogue does not know it."""
    return catalogue(chosen()).line(text)


def heading(text: str) -> str:
    """A table's heading in the chosen language."""
    return catalogue(chosen()).heading(text)


def _sentences(language: str) -> dict[str, str]:
    found = gettext.translation(DOMAIN, LOCALES, [language])
    known: dict[str, str] = found._catalog  # type: ignore[attr-defined]  # gettext tells no one what it knows
    page = page_sentences(language).items()
    paged = {numbered(english).strip(): numbered(text, english).strip() for english, text in page}
    spoken = {english: text for english, text in paged.items() if " " in english and Template(english, text).telling}
    words = {HEADING + english: text for english, text in paged.items() if english.isalpha()}
    return spoken | words | {english: text for english, text in known.items() if english and text}


def page_sentences(language: str) -> dict[str, str]:
    """The sentences of the pages, many of which the command prints too."""
    groups = json.loads((LOCALES / f"{language}.json").read_text("utf-8"))["sentences"]
    return {english: text for group in groups.values() for english, text in group.items()}


def numbered(template: str, like: str | None = None) -> str:
    """A template with names for its places, `{rows}`, with numbers instead: `{0}`, in the order of `like`, or its own.

    A brace that is no place is doubled; beside names it is doubled already.
    """
    names = dict.fromkeys(place for place in _NAMED.findall(template if like is None else like) if place)
    if not names:
        return template.replace("{", "{{").replace("}", "}}")
    numbers = {name: f"{{{number}}}" for number, name in enumerate(names)}

    def piece(found: re.Match[str]) -> str:
        if found[1]:
            return numbers.get(found[1], "")
        return found[0] if len(found[0]) == 2 else found[0] * 2

    return _NAMED.sub(piece, template)


class Catalogue:
    """Sentences of one language by their English templates."""

    def __init__(self, sentences: dict[str, str]):
        self.sentences = sentences

    @cached_property
    def templates(self) -> list[Template]:
        """Those with places in them: the ones that begin with their own words first, and that say most themselves, so
        that the closest is found."""
        found = [Template(e, t) for e, t in self.sentences.items() if "{" in e and not e.startswith(HEADING)]
        found = [template for template in found if template.places]
        return sorted(found, key=lambda template: (not template.opens, -template.weight))

    def line(self, text: str) -> str:
        """A printed line; its indentation stays."""
        bare = text.strip()
        return text.replace(bare, self._said(bare, 0), 1) if bare and self.sentences else text

    def heading(self, text: str) -> str:
        return self.sentences.get(HEADING + text) or self.line(text)

    def _said(self, text: str, depth: int) -> str:
        if known := self.sentences.get(text.replace("{", "{{").replace("}", "}}")):
            return "".join(words for words, _ in parts(known))
        if depth == DEEPEST or " " not in text:  # a single word may be the user's
            return text
        for template in self.templates:
            if not template.telling and (depth or (not template.opens and len(template.places) > 1)):
                continue
            if (values := template.values(text)) is not None:
                inner = depth if template.label else depth + 1
                return template.said({place: self._said(value, inner) for place, value in values.items()})
        return text


class Template:
    """A sentence with places: the pattern of its English, and what is said."""

    def __init__(self, english: str, text: str):
        self.text, self.pattern = text, ""
        self.places: list[str] = []
        own = []
        for words, place in parts(english):
            own.append(words)
            self.pattern += re.escape(words)
            if place is not None:  # one right behind another is a part that may be left out: "; did you mean …"
                self.pattern += "(.*?)" if words or not self.places else "((?:[;,(].*)?)"
                self.places.append(place)
        self.matches = re.compile(self.pattern, re.DOTALL).fullmatch
        self.longest, self.weight, self.opens = max(own, key=len), sum(map(len, own)), bool(own[0])
        self.telling = sum(letter.isalpha() for letter in "".join(own)) >= TELLING
        self.label = bool(re.fullmatch(r"\w+: +\{0\}", english))  # "fix: {0}", whose value is a sentence for itself

    def values(self, text: str) -> dict[str, str] | None:
        """What stands at the places, where the text is this sentence."""
        found = self.matches(text) if self.longest in text else None
        return None if found is None else dict(zip(self.places, found.groups(), strict=True))

    def said(self, values: dict[str, str]) -> str:
        return "".join(words + ("" if place is None else values.get(place, "")) for words, place in parts(self.text))


def parts(template: str) -> list[tuple[str, str | None]]:
    """A template's own words, each with the place behind them, if any."""
    return [(words, place) for words, place, _, _ in Formatter().parse(template)]
