"""Recordings longer than a model hears at once, in parts: cut where they are quietest, or between given segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keeltune.data.media import Media

FRAME, QUIET = 0.02, 0.2
"""Seconds of which the power is measured, and over which it is averaged: a pause, not the gap within a word."""


class Part(Media):
    """A part of a recording: `span`, its samples [start, stop) at the model's rate; `whole`, the recording."""

    whole: Media
    span: tuple[int, int]


def part_of(whole: Media, span: tuple[int, int]) -> Part:
    """A part, whose digest is the recording's with its place."""
    part = Part(whole)
    part.whole, part.span = whole, span
    part.path, part.root, part.content = whole.path, whole.root, whole.content
    part.digest = f"{whole.digest}:{span[0]}-{span[1]}"
    return part


def quiet_spans(wave: np.ndarray, rate: int, most: int) -> list[tuple[int, int]]:
    """A wave [samples] as spans [start, stop) of at most `most` samples, one behind the other.

    Each but the last ends where the sound is quietest in the second half of what it may hold; of equals the latest.
    Parts without any sound are left out. A wave that fits is one span.
    """
    step = max(1, round(FRAME * rate))
    count = -(-len(wave) // step)
    power = np.square(np.pad(wave, (0, count * step - len(wave))).reshape(count, step), dtype=np.float64).mean(1)
    width = max(1, round(QUIET / FRAME))
    level = np.convolve(np.pad(power, width // 2, mode="edge"), np.ones(width) / width, "same")
    level = level[width // 2 : width // 2 + count]
    spans, start = [], 0
    while len(wave) - start > most:
        first, last = -(-(start + most // 2) // step), (start + most) // step
        places = np.arange(max(first, start // step + 1), max(last, first) + 1)
        stop = int(places[::-1][np.argmin(level[np.minimum(places, count - 1)][::-1])]) * step
        stop = min(max(stop, start + 1), start + most)
        spans.append((start, stop))
        start = stop
    spans.append((start, len(wave)))
    return [span for span in spans if wave[slice(*span)].any()] or spans[:1]


def joined_segments(segments: Sequence[Mapping[str, Any]], most: float) -> Iterator[tuple[float, float, str]]:
    """Segments (`start` and `end` in seconds, `text`) as parts of at most `most` seconds: neighbours while they fit."""
    start, stop, texts = 0.0, 0.0, list[str]()
    for segment in segments:
        if texts and segment["end"] - start > most:
            yield start, stop, " ".join(texts)
            texts = []
        if not texts:
            start = float(segment["start"])
        stop = float(segment["end"])
        texts.append(segment["text"].strip())
    if texts:
        yield start, stop, " ".join(texts)


def segments_fault(segments: Any) -> str | None:
    """What is wrong with a row's `segments`, in words; None where they are as they should be."""
    if not isinstance(segments, list) or not segments:
        return "no list of segments"
    last = 0.0
    for number, segment in enumerate(segments, 1):
        if not isinstance(segment, dict) or not {"start", "end", "text"} <= segment.keys():
            return f"segment {number} without start, end and text"
        start, end, text = segment["start"], segment["end"], segment["text"]
        if any(isinstance(n, bool) or not isinstance(n, int | float) for n in (start, end)) or not start < end:
            return f"segment {number} from {start!r} to {end!r}"
        if start < last - 1e-6:
            return f"segment {number}, which begins at {start} s, before {last} s, where the one before it ends"
        if not isinstance(text, str) or not text.strip():
            return f"segment {number} without text"
        last = end
    return None
