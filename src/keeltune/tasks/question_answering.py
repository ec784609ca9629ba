from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.tasks.families.span_extraction import Span
from keeltune.tasks.task import Fault, Prediction
from keeltune.utils.errors import shown
from keeltune.utils.text import HAN, apart

ARTICLES = re.compile(r"\b(a|an|the)\b")

PUNCTUATION = str.maketrans("", "", string.punctuation)


class QuestionAnswering(Span):
    """The part of a text that answers a question; an empty answer where the text has none.

    Metrics: F1 of words, exact match, 0..1 by the rules of SQuAD: lower case, no punctuation, no articles; the best of
    a row's answers counts; a row without an answer scores 1 for an empty prediction, else 0. Chinese is compared by
    character, without any punctuation. Statistics a row: F1, exact match and 1.
    Sources: Rajpurkar et al. 2016, https://aclanthology.org/D16-1264, and 2018, https://aclanthology.org/P18-2124;
    characters: Cui et al. 2019, CMRC 2018, https://aclanthology.org/D19-1600, whose own F1 counts the longest common
    run of characters where this counts the characters in common.
    """

    columns = (Column("question", "text"), Column("context", "text"), Column("answers", "answers", label=True))

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("f1", "exact_match")

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterator[Fault]:
        if not labelled:
            return
        answers = row.fields["answers"]
        flag = row.fields.get("is_impossible")
        if isinstance(flag, bool) and flag == bool(answers["text"]):
            found = f"{str(flag).lower()}, and {len(answers['text'])} answers"
            fix = "correct the one or the other; a row that has no answer has empty lists"
            yield Fault("is_impossible", "answers and is_impossible differ", found, "true where there is none", fix)
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            if fault := _offset_fault(row.fields["context"], text, start):
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

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        table = [[*_best_match(value, gold), 1.0] for value, gold in zip(values, golds, strict=True)]
        return np.array(table, dtype=np.float64).reshape(len(table), 3)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        return {name: sums[..., i] / np.maximum(sums[..., -1], 1) for i, name in enumerate(self.metrics)}

    def row_score(self, value: Any, gold: Any) -> float:
        return _best_match(value, gold)[0]


def _words(text: str) -> list[str]:
    """A text's words as SQuAD counts them; characters where it has Chinese ones, then without their punctuation too."""
    text = text.lower().translate(PUNCTUATION)
    if HAN.search(text):
        return apart("".join(c for c in text if unicodedata.category(c)[0] != "P")).split()
    return ARTICLES.sub(" ", text).split()


def _best_match(value: str, answers: Sequence[str]) -> tuple[float, float]:
    """F1 and exact match, each the best over the answers; answers without a word do not count, as in SQuAD 2.0."""
    found = _words(value)
    rights = [words for words in map(_words, answers) if words] or [[]]
    return max(_f1(found, right) for right in rights), float(found in rights)


def _f1(found: Sequence[str], right: Sequence[str]) -> float:
    """2 · words in common / all words of both; 1 where neither has any."""
    common = (Counter(found) & Counter(right)).total()
    both = len(found) + len(right)
    return 2 * common / both if both else 1.0


# Offsets: what is wrong with one, and where the answer really is


def _offset_fault(context: str, text: str, start: int) -> Fault | None:
    """Why an answer is not at its place, or None. Offsets count characters (Unicode code points) from 0."""
    end = start + len(text)
    there = context[start:end]
    if there == text:
        return None
    found = f"{shown(text)} at {start}, where the context has {shown(there)}"
    if (place := _as_units(context, text, start)) is not None:
        units, character = place
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
    before, after = context.rfind(text, 0, start + len(text)), context.find(text, start)
    return min((p for p in (before, after) if p >= 0), key=lambda p: abs(p - start), default=None)
