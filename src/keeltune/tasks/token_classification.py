from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.tasks.common import tag_schemes
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.common.tag_schemes import IOB1
from keeltune.tasks.common.word_pieces import Reading, frame_of_one, window, windows
from keeltune.tasks.families.sequence_labeling import SequenceLabeling
from keeltune.tasks.metrics.entity_f1 import EntityF1
from keeltune.tasks.metrics.metric import Metric
from keeltune.tasks.metrics.tag_accuracy import TagAccuracy
from keeltune.utils.text import joined, token_places

OVERLAP = 128
"""The most tokens that a window shares with the one before it; half of the room where that is less."""


class TokenClassification(SequenceLabeling):
    """A tag for each word of a text: named entities, chunks, or parts of speech.

    Tags that mark spans are read in the scheme that they are written in (IOB1, IOB2, IOBES and their kin:
    `common/tag_schemes.py`), and answered in it; tags without a letter before them are kinds of words. A text that is
    too long is read in windows that overlap; a word is predicted in that one where more stands on both sides of it.
    A row without tags may be a text alone: its words and signs are those between Unicode's word boundaries.

    Metrics: of spans F1, precision and recall over all types, 0..1, as seqeval counts (`metrics/entity_f1.py`); of
    kinds of words accuracy and macro-F1 over words (`metrics/tag_accuracy.py`).
    """

    scored_by = (EntityF1, TagAccuracy)
    columns = (Column("tokens", "sentence"), Column("tags", "tags", label=True))

    @classmethod
    def metrics_of(cls, settings: Settings) -> tuple[type[Metric], ...]:
        return (EntityF1,) if tag_schemes.marks_spans(settings.labels) else (TagAccuracy,)

    @classmethod
    def label_inventory(cls, names: Sequence[str]) -> list[str]:
        """Of spans as the family has it; kinds of words as they are."""
        return tag_schemes.closed(names) if tag_schemes.marks_spans(names) else list(names)

    @classmethod
    def words(cls, row: Row) -> list[str]:
        given = row.fields["tokens"]
        return [given[a:b] for a, b in token_places(given)] if isinstance(given, str) else list(given)

    def setup(self) -> None:
        super().setup()
        self.frame = frame_of_one(self.tokenizer)
        self.marks_spans = tag_schemes.marks_spans(self.names)

    def recipe_faults(self) -> Iterable[Fault]:
        limit, least = self.settings.max_length, len(self.frame) + 1
        if limit is not None and limit < least:
            yield Fault("max_length", "no room for a word", str(limit), f"at least {least}: a token of a word",
                        "raise it")  # fmt: skip
        others = [n for n in self.names if not tag_schemes.parsed(n)[0] and n != tag_schemes.OUTSIDE]
        if self.marks_spans and others:
            found = f"{', '.join(others[:5])} beside {next(n for n in self.names if tag_schemes.parsed(n)[0])}"
            expected = "tags of one scheme: O, and a letter before each type (B-PER, I-PER)"
            yield Fault("data.labels", "tags of two kinds", found, expected, "write them so in the data")

    # Windows

    def read(self, row: Row) -> list[Reading]:
        pieces = self.pieces(self.words(row))
        room = self._room(pieces)
        cut = [ids[:room] for ids in pieces]
        parts = windows([len(ids) for ids in cut], room, min(OVERLAP, room // 2))
        borders = [0, *((b + c) // 2 for (_, b), (c, _) in itertools.pairwise(parts)), len(pieces)]
        return [
            self._reading(cut[start:end], start, range(low, high), cut[start:end] != pieces[start:end])
            for (start, end), (low, high) in zip(parts, itertools.pairwise(borders), strict=True)
        ]

    def read_again(self, row: Row, words: range) -> Reading:
        pieces = self.pieces(self.words(row))
        first, shown = window(pieces, (words.start + words.stop) // 2, self._room(pieces))
        return self._reading(shown, first, words, truncated=False)

    def _room(self, pieces: Sequence[list[int]]) -> int:
        """How many tokens of words are read at once."""
        limit = self.settings.max_length
        return max(1, sum(map(len, pieces)) if limit is None else limit - len(self.frame))

    def _reading(self, shown: Sequence[list[int]], first: int, words: range, truncated: bool) -> Reading:
        """The words from `first` on as they are shown, those of `words` among them predicted."""
        inputs, start = self.frame.around([], [i for ids in shown for i in ids])
        heads = []
        for word, ids in enumerate(shown, first):
            heads += [start] if word in words else []
            start += len(ids)
        return Reading(inputs, heads, max(first, words.start), truncated)

    # What the training rows say

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        first, *others = super().encode(row, labelled=labelled)
        if labelled:
            first = replace(first, notes={**first.notes, "openings": tag_schemes.openings(row.fields["tags"])})
        return [first, *others]

    def notices(self, examples: Sequence[Example]) -> list[str]:
        said = []
        if (several := sum(e.notes["windows"] > 1 for e in examples)) > 0:
            said.append(f"long training rows are read in {several} windows of overlapping text")
        inside, begun = _openings(examples)
        if inside and begun:
            read = "IOB1" if inside > begun else "IOB2"
            said.append(f"tags are read as {read}: {inside} spans begin with I-, {begun} with a B- that IOB1 has not")
        if self.names and all(name.isdecimal() for name in self.names):
            said.append("tags are numbers and scored as kinds of words; data.labels: [O, B-PER, …] names them in order")
        return said

    def annotate(self, config: Any, examples: Sequence[Example]) -> None:
        """Whether spans may begin with I-X: the scheme that the training rows have."""
        inside, begun = _openings(examples)
        if self.marks_spans and (inside or begun):
            config.tag_scheme = IOB1 if inside > begun else None
            if self.settings.config is not None:
                self.settings.config.tag_scheme = config.tag_scheme

    # Answers for people

    def explained(self, row: Row, value: Any) -> dict[str, Any]:
        """`entities`: {"type", "text", "start", "end", "words"} of each span: [start, end) in characters of the row's
        text (of words: set side by side with spaces where their script has them), and its words from 0, [first, last].
        """
        if not self.marks_spans:
            return {}
        given = row.fields["tokens"]
        text, places = (given, token_places(given)) if isinstance(given, str) else joined(given)
        return {
            "entities": [
                {"type": kind, "text": text[places[first][0] : places[last][1]], "start": places[first][0],
                 "end": places[last][1], "words": [first, last]}
                for kind, first, last in tag_schemes.spans(value)
            ]
        }  # fmt: skip


def _openings(examples: Sequence[Example]) -> tuple[int, int]:
    """How the spans of the training rows begin: with I-X, and with a B-X that IOB1 has not."""
    found = [example.notes["openings"] for example in examples if "openings" in example.notes]
    return sum(inside for inside, _ in found), sum(begun for _, begun in found)
