from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.models.configuration import writes_text
from keeltune.tasks.common.example import Prediction
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.generated_answers import GeneratedAnswers, flag_faults
from keeltune.tasks.families.span_extraction import SpanExtraction
from keeltune.tasks.metrics.squad import Squad
from keeltune.tasks.task import Task
from keeltune.utils.errors import shown


class QuestionAnswering(SpanExtraction):
    """The part of a text that answers a question; an empty answer where the text has none.

    So by an encoder with a head for the two ends. A model that writes (a folder of a decoder, or of an encoder-decoder
    with its language head) answers in words of its own: `common/generated_answers.py`, with the same metrics.

    Metrics: F1 of words, exact match, 0..1 by the rules of SQuAD (`metrics/squad.py`): the best of a row's answers
    counts, and a row without an answer scores 1 for an empty prediction, else 0.
    """

    scored_by = (Squad,)
    passage = "context"
    columns = (Column("question", "text"), Column("context", "text"), Column("answers", "answers", label=True))

    may_generate = True

    @classmethod
    def for_model(cls, config: Any) -> type[Task]:
        return GeneratedAnswers if writes_text(config) else cls

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterator[Fault]:
        if not labelled:
            return
        yield from flag_faults(row)
        answers = row.fields["answers"]
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            if start is None:
                fix = 'write {"text": ["…"], "answer_start": [0]}; a model that writes its answers needs no places'
                yield Fault("answers", "no places", f"{shown(text)} without one", "lists text and answer_start", fix)
            elif fault := _offset_fault(row.fields["context"], text, start):
                yield fault

    def question(self, row: Row) -> str:
        return str(row.fields["question"])

    def text(self, row: Row) -> str:
        return str(row.fields["context"])

    def spans(self, row: Row) -> Sequence[tuple[int, int]]:
        answers = row.fields["answers"]
        pairs = zip(answers["text"], answers["answer_start"], strict=True)
        return [(int(start), int(start) + len(text)) for text, start in pairs]

    def labelled_by(self, row: Row, answer: Prediction) -> Row:
        texts, starts = ([answer.value], [answer.start]) if answer.value else ([], [])
        return self.with_target(row, {"text": texts, "answer_start": starts})

    def gold(self, row: Row) -> Any:
        return list(row.fields["answers"]["text"])


# Offsets: what is wrong with one, and where the answer really is


def _offset_fault(context: str, text: str, start: int) -> Fault | None:
    """Why an answer is not at its place, or None. Offsets count characters (Unicode code points) from 0."""
    end = start + len(text)
    excerpt = context[start:end]
    if excerpt == text:
        return None
    found = f"{shown(text)} at {start}, where the context has {shown(excerpt)}"
    if (counted := _as_units(context, text, start)) is not None:
        units, character = counted
        return Fault(
            "answers", f"offset in {units}", f"{found}: {start} counts {units}", "offsets that count characters",
            f"count characters: answer_start {character} here, and so in all rows",
        )  # fmt: skip
    if text not in context and (form := _other_form(context, text)):
        return Fault(
            "answers", "Unicode forms differ", f"{found}: the context has it in another Unicode form ({form})",
            "one form for context and answers", "normalise both (NFC), then count the offsets again",
        )  # fmt: skip
    nearest = _nearest(context, text, start)
    fix = "delete the answer or correct its text: the context does not hold it"
    if nearest is not None:
        fix = f"answer_start {nearest}, the nearest place where the context has it"
    if end > len(context):
        found = f"{shown(text)} at {start} to {end}, past the end of the context"
        return Fault("answers", "offset past the end", found, f"a place within its {len(context)} characters", fix)
    return Fault("answers", "answer not at its offset", found, "the answer, letter by letter, at its offset", fix)


def _as_units(context: str, text: str, start: int) -> tuple[str, int] | None:
    """The units that an offset counts, where it fits as bytes or as UTF-16 units, and the character that it means."""
    for units, code, width in (("UTF-8 bytes", "utf-8", 1), ("UTF-16 units", "utf-16-le", 2)):
        raw, wanted = context.encode(code), text.encode(code)
        if raw[width * start : width * start + len(wanted)] == wanted:
            return units, len(raw[: width * start].decode(code))
    return None


def _other_form(context: str, text: str) -> str:
    """The forms of context and answer, where they are the same text in NFC and NFD (or mixed); else nothing."""
    if unicodedata.normalize("NFC", text) not in unicodedata.normalize("NFC", context):
        return ""
    names = [
        next((f for f in ("NFC", "NFD") if unicodedata.is_normalized(f, part)), "mixed") for part in (context, text)
    ]
    return f"context {names[0]}, answer {names[1]}"


def _nearest(context: str, text: str, start: int) -> int | None:
    """The place of `text` in the context that is nearest to `start`."""
    left, right = context.rfind(text, 0, start + len(text)), context.find(text, start)
    return min((p for p in (left, right) if p >= 0), key=lambda p: abs(p - start), default=None)
