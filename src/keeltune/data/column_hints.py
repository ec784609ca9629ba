"""Which of a file's columns may be the one that is missing: by its name, and by what it holds."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from keeltune.data.columns import KINDS, MEDIA, STRUCTURED, Column, Refused, read_cell

USUAL = {
    "text": ("sentence", "review", "content", "body", "tweet", "comment", "message", "utterance", "premise", "headline",
             "sentence1", "transcript", "transcription", "normalized_text"),
    "text_pair": ("sentence2", "hypothesis", "question2", "passage"),
    "label": ("labels", "sentiment", "class", "category", "intent", "topic", "polarity", "stars", "rating", "target",
              "y", "score"),
    "document": ("article", "text", "dialogue", "body", "source", "content", "email_body", "maintext"),
    "summary": ("highlights", "abstract", "tldr", "headline", "target", "subject_line"),
    "source": ("translation.en", "src", "en", "english", "input"),
    "target": ("translation.de", "tgt", "trg", "de", "translation", "output", "score", "label", "similarity",
               "similarity_score", "rating", "stars", "value", "y", "labels"),
    "tokens": ("words", "sentence"),
    "tags": ("ner_tags", "labels", "ner", "entities", "srl_tags", "frames", "upos", "pos_tags", "pos", "xpos",
             "chunk_tags"),
    "predicate_index": ("predicate", "verb_index", "predicate_idx"),
    "image": ("img", "picture", "file_name", "image_path", "path"),
    "captions": ("caption", "sentences", "text", "texts"),
    "audio": ("file", "path", "wav", "audio_path", "file_name"),
    "question": ("query",),
    "context": ("passage", "document", "paragraph"),
    "answers": ("answer",),
    "prompt": ("instruction", "input", "question", "query"),
    "completion": ("output", "response", "answer", "target"),
}  # fmt: skip
"""What other data sets call our columns, the likeliest first."""


def likely(
    column: Column, header: Sequence[str], sample: Sequence[Mapping[str, Any]], taken: Collection[str], cells: bool
) -> str | None:
    """The file's column that is most likely meant: one of the usual names, or a similar one, whose values fit; else, of
    those whose values fit, for a label the one with the fewest different values, for a text the longest. None where no
    values fit. `cells`: whether values are the cells of a table; `taken`: columns that are another of ours."""
    values = dict(_columns(header, sample))
    fitting = {n: v for n, v in values.items() if n not in taken and v and all(_fits(one, column, cells) for one in v)}
    lower = {name.lower(): name for name in fitting}
    for usual in USUAL.get(column.name, ()):
        if usual in lower:
            return lower[usual]
    if near := difflib.get_close_matches(column.name, lower, n=1, cutoff=0.6):
        return lower[near[0]]
    if column.kind in ("label", "index"):
        repeating = {name: len(set(map(str, v))) for name, v in fitting.items() if len(set(map(str, v))) < len(v)}
        return min(repeating, key=lambda name: repeating[name], default=None)
    return max(fitting, key=lambda name: mean(len(str(one)) for one in fitting[name]), default=None)


def _columns(header: Sequence[str], sample: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Each column with its first values; what lies in a mapping under its dotted name."""
    for name in header:
        values = [record[name] for record in sample[:20] if record.get(name) is not None]
        yield name, values
        if values and all(isinstance(value, dict) for value in values):
            for inner in values[0]:
                yield f"{name}.{inner}", [value[inner] for value in values if value.get(inner) is not None]


def _fits(value: Any, column: Column, cells: bool) -> bool:
    try:
        KINDS[column.kind](read_cell(value) if cells and column.kind in STRUCTURED else value)
    except Refused:
        return False
    return column.kind not in MEDIA or not isinstance(value, str) or "." in value
