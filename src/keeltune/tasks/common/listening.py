"""What a model must say of recordings before their rows are complete: their language, and which words are where.

Both are heard once, by the model as it is when it is loaded, and kept by the recordings' content: a row that is encoded
again asks here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from keeltune.tasks.architectures.seq2seq import Seq2Seq
from keeltune.tasks.common.batches import in_batches
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.told_languages import listed
from keeltune.tasks.common.transcripts import share_out
from keeltune.utils.device import in_eval_mode

BATCH = 8
"""Recordings that are listened to at a time."""

T = TypeVar("T")


class Listening:
    """`languages`: of a recording (by its digest) the language that the model hears in it, by its tokenizer's name.
    `texts`: of a long recording and its transcript the text of each part, None where that is in doubt."""

    def __init__(self) -> None:
        self.languages: dict[str, str] = {}
        self.texts: dict[tuple[str, str], list[str | None]] = {}

    def listen(self, writer: Seq2Seq, model: Any, rows: Sequence[Sequence[Example]], device: str) -> list[str]:
        """Hears what the examples of some rows leave open (`notes["open"]`); what it heard, in words."""
        notes = []
        with in_eval_mode(model):
            unnamed = {e[0].notes["digest"]: e[0] for e in rows if e[0].notes["language"] is None and writer.hears}
            if unnamed:
                heard = _heard(list(unnamed.values()), lambda part: writer.hear(model, part, device))
                found = dict(zip(unnamed, heard, strict=True))
                self.languages |= found
                notes.append(f"the model hears the language of {len(found)} recordings: {listed(found)}")
            whole = {(e[0].notes["digest"], t): e for e in rows if (t := e[0].notes.get("transcript")) is not None}
            parts = [self._told(writer, example) for examples in whole.values() for example in examples]
            texts = iter(_heard(parts, lambda part: writer.transcribed(model, part, device)))
        shared = {key: share_out(key[1], [next(texts) for _ in examples]) for key, examples in whole.items()}
        self.texts |= shared
        return [*notes, *_shared_notes(shared)]

    def _told(self, writer: Seq2Seq, example: Example) -> Example:
        language = self.languages.get(example.notes["digest"])
        return example if language is None else writer.in_language(example, language)


def _heard(examples: Sequence[Example], hear: Callable[[list[Example]], Sequence[T]]) -> list[T]:
    return in_batches(examples, hear, batch_size=BATCH)


def _shared_notes(shared: dict[tuple[str, str], list[str | None]]) -> list[str]:
    if not shared:
        return []
    parts = [text for texts in shared.values() for text in texts]
    lost = sum(text is None for text in parts)
    note = f"{len(shared)} long recordings are {len(parts)} parts, whose words are told by what the model hears in them"
    if lost:
        note += f"; {lost} parts are not learnt, as their words are in doubt (`segments` in their rows would name them)"
    return [note]
