"""One scored row as a page shows it: what was asked, what is right and what was answered, with what differs marked."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from keeltune.data import images
from keeltune.data.dataset import Row
from keeltune.data.media import Media, Unreadable
from keeltune.reports.differences import Piece, around, cut, likeness, marked, word_alignment, word_difference
from keeltune.reports.templating import READABLE
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.common.spoken_text import SpokenText
from keeltune.tasks.metrics.argument_f1 import arguments
from keeltune.tasks.task import Task
from keeltune.utils.errors import StateRefused, UserError
from keeltune.utils.sanitization import shown_text
from keeltune.utils.text import apart

ASKED, ANSWERED = 600, 800
"""Characters of an input and of an answer that are shown."""

READ = 4_000
"""Characters of a text that are compared: more are never shown, and comparing takes the square of their number."""

SIDE, PICTURE = 192, 24_576
"""Pixels of a small picture's longer side, and bytes of its file, at most."""


@dataclass(frozen=True)
class RowView:
    """`asked`: pieces of each column of the input; `right`, `answer`: in pieces, of a transcript both as one in `both`.

    `picture`: a small one as a data URI. `errors`: substitutions, deletions and insertions of a transcript.
    `confidence`: the probability of the answer. `references`: how many right answers there are.
    """

    line: Mapping[str, Any]
    asked: list[list[Piece]]
    right: list[Piece]
    answer: list[Piece]
    both: list[Piece] | None = None
    errors: Sequence[int] | None = None
    picture: Markup | None = None
    confidence: float | None = None
    references: int = 1

    @property
    def is_brief(self) -> bool:
        """Whether both answers fit side by side on a phone."""
        return all(sum(len(piece.text) for piece in part) <= 20 for part in (self.right, self.answer))


@dataclass(frozen=True)
class Viewer:
    """Makes a task's rows seen. `language`: the base code of their language; `normalizer`: of transcripts."""

    task: type[Task]
    language: str = ""
    normalizer: str | None = None

    def view(self, line: Mapping[str, Any], row: Row | None) -> RowView:
        """A line of a prediction file with its row, which may be missing."""
        fields = {} if row is None else row.fields
        probabilities = line.get("probabilities")
        confidence = max(probabilities.values(), default=None) if isinstance(probabilities, Mapping) else None
        shown = replace(self._view(line, fields), confidence=confidence, picture=_picture(fields.get("image")))
        return replace(
            shown,
            asked=[cut(pieces, ASKED) for pieces in shown.asked],
            right=cut(shown.right, ANSWERED),
            answer=cut(shown.answer, ANSWERED),
            both=None if shown.both is None else cut(shown.both, ANSWERED),
        )

    def _view(self, line: Mapping[str, Any], fields: Mapping[str, Any]) -> RowView:
        gold, value = line["gold"], line["prediction"]
        if self.task.answer == "tags" and isinstance(gold, list) and isinstance(value, list):
            words = [clean(word) for word in fields.get("tokens", ["·"] * len(gold))]
            return RowView(line, [], *tag_pieces(words, gold, value))
        if self.task.answer != "text" or self.task.passage is not None:
            asked = _passage(fields, self.task.passage, gold, value) if self.task.passage else self._inputs(fields)
            return RowView(line, asked, [Piece(named(gold))], [Piece(named(value))])
        golds = [gold] if isinstance(gold, str) else gold
        if self.task.reads == "sound":
            say = SpokenText(Settings(normalizer=self.normalizer))
            spoken = [shown_text(text, READABLE) for text in (golds[0], str(value))]
            both, errors = word_alignment(*(" ".join(apart(say(text, self.language)).split()) for text in spoken))
            return RowView(line, [], [Piece(spoken[0])], [Piece(spoken[1])], both, errors)
        references, written = [clean(text) for text in golds], clean(str(value))
        nearest = max(references, key=lambda text: likeness(text, written))
        right_pieces, answer_pieces = word_difference(nearest, written)
        return RowView(line, self._inputs(fields), right_pieces, answer_pieces, references=len(references))

    def _inputs(self, fields: Mapping[str, Any]) -> list[list[Piece]]:
        """The input's columns of text; of a conversation what was said before its last answer."""
        texts = list[str]()
        for column in self.task.columns:
            value = fields.get(column.name)
            if column.label or value is None or column.kind in ("image", "audio"):
                continue
            if column.kind == "messages" and isinstance(value, list):
                said = [f"{m.get('role')}: {m.get('content')}" for m in value if isinstance(m, Mapping)]
                texts.append("\n".join(said[:-1]))
            elif isinstance(value, str):
                texts.append(value)
        return [[Piece(clean(text))] for text in texts if text]


def named(value: Any) -> str:
    """A label, a number, or several of them."""
    parts = value if isinstance(value, list) else [value]
    return clean(", ".join(f"{part:.4g}" if isinstance(part, float) else str(part) for part in parts)) or "–"


def clean(text: str) -> str:
    """A text of the data as it may be shown, before it is compared or cut: a secret that is cut in two is none that
    can be found."""
    return shown_text(text[:READ], READABLE)


def tag_pieces(words: Sequence[str], gold: Sequence[str], value: Sequence[str]) -> tuple[list[Piece], list[Piece]]:
    """A tagged sentence twice: with the right spans, those that were not found "missing", and with the predicted ones,
    those that are wrong "added"; the others are "found". The label is the span's role."""
    right, predicted = arguments(gold), arguments(value)
    return (
        _spans(words, gold, right - predicted, "missing"),
        _spans(words, value, predicted - right, "added"),
    )


def _spans(words: Sequence[str], tags: Sequence[str], odd: set[Any], kind: str) -> list[Piece]:
    """Words in pieces by their tags; spans of which one of `odd` holds the first word are of `kind`."""
    wrong = {(role, first) for role, parts in odd for first, _ in parts}
    pieces, open_role = list[Piece](), ""
    for place, (word, tag) in enumerate(zip(words, tags, strict=False)):
        role = tag[2:]
        begins = role and (tag.startswith("B-") or role != open_role)
        text = word if place == 0 else f" {word}"
        if begins:
            pieces += [Piece(" ")] if place else []
            base = role.removeprefix("C-")
            pieces.append(Piece(word, kind if {(role, place), (base, place)} & wrong else "found", role))
        elif pieces and (role or not open_role):
            pieces[-1] = pieces[-1]._replace(text=pieces[-1].text + text)
        else:
            pieces.append(Piece(text))
        open_role = role
    return pieces


def _passage(fields: Mapping[str, Any], passage: str, gold: Sequence[str], value: str) -> list[list[Piece]]:
    """The question, and what surrounds the answers in their passage: the right ones "right", the given one "answer"."""
    question = [[Piece(clean(str(fields["question"])))]] if "question" in fields else []
    whole = str(fields.get(passage, ""))
    if not whole:
        return question
    starts = (fields.get("answers") or {}).get("answer_start") or []
    told = [*starts, *[None] * len(gold)]
    answers = [(answer, told[number], "right") for number, answer in enumerate(gold)] + [(value, None, "answer")]
    found = [_place(whole, text, start) for text, start, _ in answers]
    if (given := found[-1]) is not None:  # where it is a right one, it is shown as that one, not as the first alike
        same = [place for place in found[:-1] if place and whole[place[0] :].startswith(value)]
        found[-1] = (same[0][0], same[0][0] + len(value)) if same else given
    first, last = around(whole, [place for place in found if place], ASKED - 20)
    window, spans = clean(whole[first:last]), list[tuple[int, int, str]]()
    for (text, _, kind), place in zip(answers, found, strict=True):
        if place and first <= place[0] and place[1] <= last:
            at = _place(window, clean(text), place[0] - first)
            spans += [(*at, kind)] if at else []
    dots = Piece("… ", "soft")
    pieces = [*([dots] if first else []), *marked(window, spans), *([dots] if last < len(whole) else [])]
    return [*question, pieces]


def _place(text: str, part: str, told: int | None) -> tuple[int, int] | None:
    """Where a part of a text is: where it is told to be if it is there, else where it is first."""
    if not part:
        return None
    start = told if isinstance(told, int) and text[told : told + len(part)] == part else text.find(part)
    return (start, start + len(part)) if start >= 0 else None


def _picture(media: Any) -> Markup | None:
    """A small JPEG as a data URI; None where there is no picture, or none that can be read."""
    if not isinstance(media, Media):
        return None
    try:
        picture = images.read(media)
    except (Unreadable, StateRefused, UserError, OSError):
        return None
    picture.thumbnail((SIDE, SIDE))
    for quality in (75, 50, 25):
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality)
        if stream.tell() <= PICTURE:
            return Markup("data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode())
    return None
