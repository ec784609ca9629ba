"""What differs between two texts, as pieces that a page marks: words, or characters of scripts without spaces."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from keeltune.utils.text import PIECE


class Piece(NamedTuple):
    """A stretch of a text, and what it is: "" as in the other text, "missing" (only in what is right), "added" (only in
    the answer), or a span's role. `label`: what stands beside it in small letters."""

    text: str
    kind: str = ""
    label: str = ""


def word_difference(right: str, answer: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces: of `right` what `answer` lacks is "missing", of `answer` what is not in `right` "added".

    Joined, the pieces are the texts. Words are what stands between spaces, and each character of a script without
    spaces; a run of equal ones is as long as possible, the longest found first (Ratcliff and Obershelp 1988, by
    Python's difflib), so that what stays together is read together.
    """
    one, other = _words(right), _words(answer)
    matcher = SequenceMatcher(None, [word.strip() for word in one], [word.strip() for word in other], autojunk=False)
    left, added = list[Piece](), list[Piece]()
    for operation, a, b, c, d in matcher.get_opcodes():
        equal = operation == "equal"
        left += [Piece("".join(one[a:b]), "" if equal else "missing")] if b > a else []
        added += [Piece("".join(other[c:d]), "" if equal else "added")] if d > c else []
    return left, added


def likeness(right: str, answer: str) -> float:
    """2 · words in common / words of both, from 0 to 1, by the same alignment."""
    one, other = ([word.strip() for word in _words(text)] for text in (right, answer))
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _words(text: str) -> list[str]:
    """A text's words, each with the blanks behind it; the first with those before it too."""
    starts = [match.start() for match in PIECE.finditer(text)]
    if not starts:
        return [text] if text else []
    starts[0] = 0
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


class Errors(NamedTuple):
    """Word errors of a transcript by kind."""

    substitutions: int
    deletions: int
    insertions: int


def word_alignment(right: str, heard: str) -> tuple[list[Piece], Errors]:
    """Two normalised transcripts as one text, with the fewest errors, as jiwer aligns them and WER counts them.

    A word that was heard for another: the right one "missing", then the other "added"; a deletion is "missing" alone,
    an insertion "added" alone. Errors: of each kind.
    """
    one, other = right.split(), heard.split()
    if not one or not other:
        missing, added = ([Piece(" ".join(words), kind)] for words, kind in ((one, "missing"), (other, "added")))
        return missing if one else added if other else [], Errors(0, len(one), len(other))
    import jiwer

    found = jiwer.process_words(" ".join(one), " ".join(other))
    pieces = list(_aligned(one, other, found.alignments[0]))
    return pieces, Errors(found.substitutions, found.deletions, found.insertions)


def _aligned(one: Sequence[str], other: Sequence[str], chunks: Sequence[object]) -> Iterator[Piece]:
    for chunk in chunks:
        right = one[chunk.ref_start_idx : chunk.ref_end_idx]  # type: ignore[attr-defined]
        heard = other[chunk.hyp_start_idx : chunk.hyp_end_idx]  # type: ignore[attr-defined]
        if chunk.type == "equal":  # type: ignore[attr-defined]
            yield Piece(" ".join([*right, ""]))
            continue
        for i in range(max(len(right), len(heard))):
            yield from [Piece(f"{right[i]} ", "missing")] if i < len(right) else []
            yield from [Piece(f"{heard[i]} ", "added")] if i < len(heard) else []


def marked(text: str, spans: Sequence[tuple[int, int, str]]) -> list[Piece]:
    """A text in pieces by spans [start, end) of some kind, which may overlap: kinds of one stretch are joined by a
    blank, each once, in their order."""
    borders = sorted({0, len(text), *(place for start, end, _ in spans for place in (start, end))})
    pieces = list[Piece]()
    for start, end in itertools.pairwise(borders):
        kinds = dict.fromkeys(kind for first, last, kind in spans if first <= start and end <= last)
        kind = " ".join(kinds)
        if pieces and pieces[-1].kind == kind:
            pieces[-1] = Piece(pieces[-1].text + text[start:end], kind)
        else:
            pieces.append(Piece(text[start:end], kind))
    return [piece for piece in pieces if piece.text]


def cut(pieces: Sequence[Piece], most: int) -> list[Piece]:
    """The pieces' first `most` characters, and how many more there are as "…"; all where there are no more."""
    kept, room = list[Piece](), most
    for piece in pieces:
        if len(piece.text) > room:
            break
        kept.append(piece)
        room -= len(piece.text)
    rest = pieces[len(kept) :]
    if not rest:
        return kept
    left = sum(len(piece.text) for piece in rest) - room
    return [*kept, rest[0]._replace(text=rest[0].text[:room]), Piece(f" … (+{left:,})", "soft")]


def around(text: str, places: Sequence[tuple[int, int]], most: int) -> tuple[int, int]:
    """The window [start, end) of at most `most` characters that shows as much of the places as fits; the text's
    beginning where there are none."""
    if len(text) <= most:
        return 0, len(text)
    first = min((start for start, _ in places), default=0)
    last = max((end for start, end in places if end <= first + most), default=first)
    start = max(0, min(first - (most - (last - first)) // 2, len(text) - most, first))
    return start, start + most
