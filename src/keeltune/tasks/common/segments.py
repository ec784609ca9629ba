"""The segments of a long recording, as its row gives them: their faults, and the parts that they make up."""

from __future__ import annotations

from collections.abc import Iterator

from keeltune.data.audio_parts import joined_segments, part_of, segments_fault
from keeltune.data.dataset import Row
from keeltune.data.media import Media
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.recordings import Recordings
from keeltune.utils.errors import shown

AMISS = 0.5
"""Seconds that a segment may end behind its recording: programs round."""


def column_faults(row: Row, *, labelled: bool) -> Iterator[Fault]:
    """What is wrong with a row's `language` and `segments`, whatever the model."""
    language, segments = row.fields.get("language"), row.fields.get("segments")
    if language is not None and not isinstance(language, str):
        fix = "write its name or code, or leave it out"
        yield Fault("language", "not a language", shown(language), "the name of the language that is spoken", fix)
    if labelled and segments is not None and (found := segments_fault(segments)):
        expected = 'a list in the order of time, as in [{"start": 0.0, "end": 4.2, "text": "…"}], in seconds'
        yield Fault("segments", "not segments", found, expected, "correct them, or leave the column out")


def segment_faults(recordings: Recordings, row: Row, seconds: float) -> Iterator[Fault]:
    """Segments that lie elsewhere than their recording of so many seconds, or are longer than the model's window."""
    segments = row.fields.get("segments")
    if recordings.window is None or segments_fault(segments):
        return
    most, fix = recordings.window / recordings.rate, "correct the times, or leave the column out"
    for number, segment in enumerate(segments, 1):  # type: ignore[arg-type]
        length = segment["end"] - segment["start"]
        if segment["end"] > seconds + AMISS:
            found = f"segment {number} until {segment['end']:g} s, of a recording of {seconds:.1f} s"
            yield Fault("segments", "segment elsewhere", found, "times within the recording", fix)
        elif seconds > most and length > most:
            found, expected = f"segment {number} of {length:.1f} s", f"at most {most:g} s, all the model hears at once"
            yield Fault("segments", "segment too long", found, expected, "cut it, or leave the column out")


def segment_parts(recordings: Recordings, row: Row) -> tuple[list[Media], list[str]]:
    """The parts that a row's segments make up, as long as the window at most, and their texts."""
    rate, window = recordings.rate, recordings.window
    assert window is not None
    joined = list(joined_segments(row.fields["segments"], window / rate))
    spans = [(round(a * rate), min(round(b * rate), round(a * rate) + window)) for a, b, _ in joined]
    return [part_of(row.fields["audio"], span) for span in spans], [text for _, _, text in joined]
