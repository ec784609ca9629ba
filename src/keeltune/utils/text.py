"""Texts as they are compared: one form of what Unicode writes in several, and the words of any script.

Where a script sets spaces between words, a word is what Unicode says (UAX #29); where it does not, each character as
readers see it (a grapheme: a letter with its marks) is one: Chinese and Japanese, and the scripts of which Unicode says
that a line is broken by a dictionary (Thai, Lao, Khmer, Burmese …).
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Mapping, Sequence

import regex

HAN = regex.compile(r"\p{Han}")
"""Chinese characters: the ideographs and their extensions."""

_UNSPACED = (
    r"[[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Bopomofo}\p{scx=Tibetan}\p{Yi}\p{Javanese}\p{Balinese}"
    r"\p{lb=SA}]&&[\p{L}\p{M}\p{N}]--[0-9]]"
)
"""A letter, mark or digit of a script without spaces between its words."""

UNSPACED = regex.compile(rf"(?V1){_UNSPACED}")

_GRAPHEME = rf"(?={_UNSPACED})\X"
_RUN = rf"(?:(?!{_UNSPACED})\S)+"

GRAPHEME = regex.compile(rf"(?V1){_GRAPHEME}")
PIECE = regex.compile(rf"(?V1){_GRAPHEME}|{_RUN}")
"""What `apart` makes a word: a character of a script without spaces, or what stands between spaces and such."""

BOUNDARY = regex.compile(r"(?V1w)\b")
"""Unicode's own word boundaries."""

WORDLIKE = regex.compile(r"[\p{L}\p{N}]")

INVISIBLE = regex.compile(r"\p{Default_Ignorable_Code_Point}")
"""Zero-width characters, joiners, marks of direction, soft hyphens, variation selectors."""

_JOINING = r"[\p{Arabic}\p{InSC=Virama}\p{InSC=Pure_Killer}\p{InSC=Invisible_Stacker}\p{InSC=Consonant}]"
_STRAY = regex.compile(rf"(?V1)(?!(?<={_JOINING})[\u200c\u200d](?={_JOINING}))\p{{Default_Ignorable_Code_Point}}")
"""The same but for joiners that Persian and Indic spelling has within words."""

SPACE = regex.compile(r"[^\S \r\n]+")
"""Spaces of other kinds than the usual one: no-break, ideographic, tabs …"""


def canonical(text: str, *, joiners: bool = False) -> str:
    """The text in the form that is compared: what a reader cannot tell apart is written in one way.

    NFC; letters, marks and digits in their NFKC form (full width, presentation forms, ligatures), but for what stands
    higher, lower or in a circle (m² is not m2); every space a space; nothing invisible, but for the `joiners` of
    Persian and Indic spelling where they are asked for. Punctuation and signs stay, as they are tokens of their own
    (`plain_width`).
    """
    if text.isascii():
        return SPACE.sub(" ", text)
    text = SPACE.sub(" ", unicodedata.normalize("NFC", (_STRAY if joiners else INVISIBLE).sub("", text)))
    if not unicodedata.is_normalized("NFKC", text):
        text = "".join(_compatible(c) if unicodedata.category(c)[0] in "LMN" else c for c in text)
        text = unicodedata.normalize("NFC", text)
    return _as_one(text)


def _as_one(text: str) -> str:
    for parts, sign in _WRITTEN_AS_ONE.items():
        text = text.replace(parts, sign)
    return text


_WRITTEN_AS_ONE: Mapping[str, str] = {
    "\u0e4d\u0e32": "\u0e33", "\u0ecd\u0eb2": "\u0eb3", "\u0eab\u0e99": "\u0edc", "\u0eab\u0ea1": "\u0edd",
    "\u0565\u0582": "\u0587",
}  # fmt: skip
"""Thai, Lao and Armenian letters that NFKC takes apart and everybody writes as one."""


_READ_OTHERWISE = ("<super>", "<sub>", "<fraction>", "<circle>")


def _compatible(character: str) -> str:
    placed = unicodedata.decomposition(character).startswith(_READ_OTHERWISE)
    return character if placed else unicodedata.normalize("NFKC", character)


def plain_width(text: str) -> str:
    """The text with each sign in its usual width: full-width punctuation as ASCII's, one for one."""
    return text if text.isascii() else text.translate(_PLAIN)


_PLAIN = {
    code: plain
    for code in (*range(0x2000, 0x2070), *range(0x3000, 0x3040), *range(0xFE10, 0xFE70), *range(0xFF00, 0xFFF0))
    if unicodedata.category(chr(code))[0] in "PS"
    and len(plain := unicodedata.normalize("NFKC", chr(code))) == 1
    and plain != chr(code)
}


def fold_case(text: str, language: str = "", *, fully: bool = True) -> str:
    """The text without case: `fully` folded (ß as ss), else in lower case, letter for letter.

    The i of Turkish and Azerbaijani (`language`) keeps its dot, or none.
    """
    if language.split("-")[0] in ("tr", "az"):
        text = text.replace("I", "ı")  # İ is i with a dot above it for `casefold`
    text = text.casefold() if fully else text.lower()
    return _as_one(unicodedata.normalize("NFC", text.replace("i\u0307", "i")))


def words(text: str) -> list[str]:
    """The words of a text, in the module's sense, without punctuation; any apostrophe in them is the straight one."""
    found: list[str] = []
    for piece in PIECE.findall(text.replace("’", "'")):
        if UNSPACED.match(piece):
            found.append(piece)
        else:
            found += [part for part in BOUNDARY.split(piece) if WORDLIKE.search(part)]
    return found


def tokens(text: str) -> list[str]:
    """`words`; of a text without any (an emoji, a bare sign) its characters."""
    return words(text) or regex.findall(r"\S", text)


def apart(text: str) -> str:
    """The text with a space on both sides of each character of a script without spaces."""
    return GRAPHEME.sub(lambda match: f" {match.group()} ", text)


def together(text: str) -> str:
    """The text without the spaces beside characters of scripts that set none."""
    return BESIDE.sub("", text)


BESIDE = regex.compile(rf"(?V1)(?<={_UNSPACED})\s+|\s+(?={_UNSPACED})")


def word_places(text: str) -> list[tuple[int, int]]:
    """Where the words of a text are, [start, end) in characters; those of `apart(text).split()`."""
    return [match.span() for match in PIECE.finditer(text)]


def token_places(text: str) -> list[tuple[int, int]]:
    """Where the words and the signs of a text are, [start, end) in characters: what stands between Unicode's word
    boundaries and is no space, in scripts without spaces each character. Every visible character is in one of them."""
    places = []
    for piece in PIECE.finditer(text):
        cuts = [piece.start() + match.start() for match in BOUNDARY.finditer(piece.group())]
        edges = sorted({piece.start(), *cuts, piece.end()})
        places += list(itertools.pairwise(edges))
    return places


def joined(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The words as a text, with a space between two of them but beside characters of scripts that set none; and where
    each of them is, [start, end)."""
    text, places = "", []
    for word in words:
        beside = UNSPACED.match(text[-1:]) or UNSPACED.match(word)
        text += "" if not text or beside else " "
        places.append((len(text), len(text) + len(word)))
        text += word
    return text, places
