"""Which words of a long recording's transcript belong to which of its parts, by what a model hears in them."""

from __future__ import annotations

from collections.abc import Sequence

from keeltune.tasks.common.spoken_text import normalised
from keeltune.tasks.metrics.word_error_rate import word_errors
from keeltune.utils.text import apart, word_places

ALIKE = 0.5
"""Word error rate between a part's words and what is heard in it, up to which they are taken for the same."""


def share_out(transcript: str, heard: Sequence[str]) -> list[str | None]:
    """A transcript cut into the texts of its parts, in their order; None for a part whose words are in doubt.

    The words of the transcript are aligned with all that is heard (the fewest substitutions, deletions and insertions,
    as WER counts them), and cut where what is heard passes from one part to the next. Punctuation stays with the word
    before it. A part is in doubt where its words and what is heard there differ by more than `ALIKE`, or it has none.
    """
    places = _places(transcript)
    spoken = [_plain(part).split() for part in heard]
    borders = _borders([word for _, word in places], spoken)
    begins = [places[n][0] if n < len(places) else len(transcript) for n in borders]
    begins[0] = 0
    texts = [transcript[a:b].strip() for a, b in zip(begins, [*begins[1:], len(transcript)], strict=True)]
    return [text if _alike(text, words) else None for text, words in zip(texts, spoken, strict=True)]


def _plain(text: str) -> str:
    return " ".join(apart(normalised(text)).split())


def _places(text: str) -> list[tuple[int, str]]:
    """Where each word begins, and how it is compared; what is nothing but punctuation is no word."""
    found = [(start, _plain(text[start:stop]).replace(" ", "")) for start, stop in word_places(text)]
    return [(start, word) for start, word in found if word]


def _borders(words: Sequence[str], spoken: Sequence[Sequence[str]]) -> list[int]:
    """Of each part the first of `words` that is its own, by jiwer's alignment."""
    import jiwer

    everything = [word for part in spoken for word in part]
    starts = [0]
    for part in spoken[:-1]:
        starts.append(starts[-1] + len(part))
    if not words or not everything:
        return [0] * len(starts)
    chunks = jiwer.process_words(" ".join(words), " ".join(everything)).alignments[0]
    return [0, *(next(_within(c, start) for c in chunks if start <= c.hyp_end_idx) for start in starts[1:])]


def _within(chunk: object, start: int) -> int:
    """The place in the transcript of a place in what is heard, within one stretch of their alignment."""
    begin, end = chunk.ref_start_idx, chunk.ref_end_idx  # type: ignore[attr-defined]
    return min(begin + max(0, start - chunk.hyp_start_idx), end)  # type: ignore[attr-defined]


def _alike(text: str, heard: Sequence[str]) -> bool:
    words = _plain(text)
    if not words or not heard:
        return False
    errors, count = word_errors(words, " ".join(heard))
    return errors <= ALIKE * count
