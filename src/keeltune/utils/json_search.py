"""Texts looked for in JSON that is not parsed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product


def may_hold(texts: Iterable[str]) -> Callable[[bytes], bool]:
    """Tells of JSON in UTF-8 whether one of the texts may be in one of its strings, however that is escaped.

    By their first two characters: false is certain, true is not.
    """
    starts = {text[:2] for text in texts if text}
    first = {start[0].encode() for start in starts} | {b"\\"}
    spelt = {start.encode() for start in starts} | {start[0].encode() + b"\\" for start in starts}
    spelt |= {escape for start in starts for escape in _escapes(start[0])}

    def tell(data: bytes) -> bool:
        return any(one in data for one in first) and any(two in data for two in spelt)

    return tell


def _escapes(character: str) -> Iterator[bytes]:
    """How an escaped character begins: \\n, or \\u and four digits in any case (of a pair, the first half)."""
    unit = int.from_bytes(character.encode("utf-16-be")[:2], "big")
    for digits in product(*({digit, digit.upper()} for digit in f"{unit:04x}")):
        yield f"\\u{''.join(digits)}".encode()
    if character in _SHORT:
        yield b"\\" + _SHORT[character]


_SHORT = {'"': b'"', "\\": b"\\", "/": b"/", "\b": b"b", "\f": b"f", "\n": b"n", "\r": b"r", "\t": b"t"}
"""The escapes of two characters, by what they stand for."""
