"""Names of labels, columns and groups: what is never meant is taken off once, and what looks alike can be found.

Two files that look the same may spell a name in two ways: é as one character or as e and an accent, a no-break space
after it, a zero-width character within. None of this is ever meant.
"""

from __future__ import annotations

import re
import unicodedata

_UNSEEN = re.compile(
    "[\u00ad\u200b\u200e\u200f\u2060-\u2064\ufeff]|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
"""Characters of no width: soft hyphen, zero-width space, marks of direction, word joiner, byte order mark. The joiners
of Persian and of Indian scripts, and of emoji, are letters between two others that are not ASCII."""

_LATIN = str.maketrans("АВЕЅІЈКМНОРСТХаеорԛѕсухіјΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABESIJKMHOPCTXaeopqscyxijABEZHIKMNOPTYXo")
"""Cyrillic and Greek letters that look as Latin ones do."""


def plain_name(name: str) -> str:
    """A name in NFC, without outer blanks (no-break ones too) and without characters of no width."""
    if name.isascii():
        return name.strip()
    return unicodedata.normalize("NFC", _UNSEEN.sub("", name)).strip()


def look(name: str) -> str:
    """What a name looks like at a glance: equal for names that differ in case, in the width or style of letters (NFKC),
    in look-alike letters of Greek and Cyrillic, in inner blanks, in - and _, or in how they write a number: 1, 01, 1.0.
    """
    text = unicodedata.normalize("NFKC", name).translate(_LATIN).casefold()
    text = re.sub(r"[\s_\-‐-―\ufe0e\ufe0f]+", " ", text).strip()
    if re.fullmatch(r"[+-]?\d{1,30}(\.\d{1,30})?", name.strip()):
        return f"{float(name):g}"
    return text
