"""What a stranger's rows are for: the task that their columns and values fit, and which column is which of ours.

    {"ticket": "…", "queue": "billing"}            text-classification, text: ticket, label: queue
    {"translation": {"en": "…", "de": "…"}}        translation, source: translation.en, target: translation.de

Each task has a test of its own, and the first that fits is the answer: from what hardly anything else looks like
(sound, conversations) to what nearly everything does (a text and something that repeats).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import mean
from typing import Any

from keeltune.data.column_hints import USUAL
from keeltune.data.recordings import SOUND

PICTURE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")

FEELINGS = {
    "positive", "negative", "neutral", "mixed", "pos", "neg", "neu", "good", "bad", "happy", "sad", "正面", "负面",
    "中性", "积极", "消极", "好评", "差评", "positiv",
    "negativ", "neutre", "positif", "négatif", "positivo", "negativo",
}  # fmt: skip
"""Labels that say how somebody feels."""

SHORT = 30
"""Characters up to which a text is the name of a class, where it does not repeat."""

MOST_LABELS = 0.5
"""The share of the rows up to which different values are labels: of more each is nearly a text of its own."""


KEY = re.compile(r"(?=.*\d)[\w.:/-]+", re.ASCII)
"""What names a row, a number, a digest: one word of ASCII with a digit in it."""


@dataclass(frozen=True)
class Table:
    """Rows as their file has them, column by column; what lies in a mapping under its dotted name."""

    values: Mapping[str, Sequence[Any]]

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> Table:
        names = dict.fromkeys(name for record in records for name in record)
        values: dict[str, list[Any]] = {}
        for name in names:
            values[name] = [record[name] for record in records if record.get(name) is not None]
            if values[name] and all(isinstance(value, dict) for value in values[name]):
                for inner in values[name][0]:
                    values[f"{name}.{inner}"] = [v[inner] for v in values[name] if v.get(inner) is not None]
        return cls({name: found for name, found in values.items() if found})

    def named(self, ours: str, fits: Callable[[Any], bool], taken: Sequence[str | None] = ()) -> str | None:
        """The column whose name is ours, or one that others use for it, and whose values fit."""
        lower = {name.lower(): name for name in self.fitting(fits) if name not in taken}
        return next((lower[usual] for usual in (ours, *USUAL.get(ours, ())) if usual in lower), None)

    def fitting(self, fits: Callable[[Any], bool]) -> list[str]:
        return [name for name, values in self.values.items() if all(map(fits, values))]

    def length(self, name: str) -> float:
        return mean(len(str(value)) for value in self.values[name])


@dataclass(frozen=True)
class Recognised:
    """A task, our names of its columns with the file's, and what speaks for it; `task` None: none of ours, and why."""

    task: str | None
    why: str
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def renamed(self) -> dict[str, str]:
        """Those of the columns that the file calls otherwise."""
        return {ours: theirs for ours, theirs in self.columns.items() if ours != theirs}


def recognised(records: Sequence[Mapping[str, Any]]) -> list[Recognised]:
    """What the rows are for, the likeliest first; none where nothing fits."""
    table = Table.of(records)
    return [found for test in TESTS if (found := test(table)) is not None]


def _speech(table: Table) -> Recognised | None:
    sounds = table.fitting(lambda value: _is_file(value, SOUND))
    text = table.named("text", _is_text, sounds)
    if not sounds:
        return None
    if text is None:
        return Recognised(None, f"{sounds[0]} names recordings, and no column says what is said in them")
    return Recognised("speech-recognition", f"{sounds[0]} names recordings", {"audio": sounds[0], "text": text})


def _captions(table: Table) -> Recognised | None:
    pictures = table.fitting(lambda value: _is_file(value, PICTURE))
    if not pictures:
        return None
    captions = table.named("captions", lambda value: _is_text(value) or _is_texts(value), pictures)
    if captions is None:
        return Recognised(
            None, f"{pictures[0]} names pictures, and no column describes them: pictures are not classified"
        )
    why = f"{pictures[0]} names pictures, {captions} describes them"
    return Recognised("image-captioning", why, {"image": pictures[0], "captions": captions})


def _conversations(table: Table) -> Recognised | None:
    for name in ("messages", "conversations"):
        if name in table.values and all(
            isinstance(v, list) and v and isinstance(v[0], dict) for v in table.values[name]
        ):
            return Recognised("text-generation", f"{name} holds conversations", {name: name})
    for asked, answer in (("instruction", "output"), ("prompt", "completion"), ("prompt", "response")):
        if {asked, answer} <= set(table.fitting(_is_text)):
            ours = {asked: asked, ("completion" if answer == "response" else answer): answer}
            return Recognised("text-generation", f"{asked} is answered by {answer}", ours)
    return None


def _questions(table: Table) -> Recognised | None:
    question = table.named("question", _is_text)
    context = table.named("context", _is_text, [question])
    answers = table.named("answers", _is_answer, [question, context])
    if question is None or context is None or answers is None:
        return None
    why = f"{question} is answered out of {context}"
    return Recognised("question-answering", why, {"question": question, "context": context, "answers": answers})


def _words(table: Table) -> Recognised | None:
    tokens, tags = table.named("tokens", _is_texts), table.named("tags", _is_tags)
    if tokens is None or tags is None or tokens == tags:
        return None
    verb = table.named("predicate_index", lambda value: isinstance(value, int) or _is_index(value))
    columns = {"tokens": tokens, "tags": tags}
    if verb is None:
        return Recognised("token-classification", f"{tags} has a tag for each word of {tokens}", columns)
    return Recognised("semantic-role-labeling", f"{tags} are the roles of a verb", columns | {"predicate_index": verb})


def _translation(table: Table) -> Recognised | None:
    texts = _texts(table)
    codes = [
        name for name in texts if re.fullmatch(r"(?:[a-z_]+\.)?[a-z]{2,3}(?:[-_][A-Za-z]{2,4})?", name) and _code(name)
    ]
    beside = [pair for pair in combinations(codes, 2) if len({name.rpartition(".")[0] for name in pair}) == 1]
    pairs = [("source", "target")] if {"source", "target"} <= set(texts) else beside
    pair = next((p for p in pairs if 0.3 < table.length(p[0]) / max(1.0, table.length(p[1])) < 3.3), None)
    if pair is None:
        return None
    return Recognised(
        "translation", f"{pair[1]} says what {pair[0]} says", dict(zip(("source", "target"), pair, strict=True))
    )


def _summaries(table: Table) -> Recognised | None:
    document = table.named("document", _is_text)
    summary = table.named("summary", _is_text, [document])
    if document is None or summary is None:
        return None
    is_short = table.length(document) >= 2 * table.length(summary) and not _repeats(table, summary)
    if not is_short and (document, summary) != ("document", "summary"):
        return None
    return Recognised(
        "summarization", f"{summary} is {document} made short", {"document": document, "summary": summary}
    )


def _numbers(table: Table) -> Recognised | None:
    """A column of numbers that are no classes, beside a text or a pair of texts."""
    target, label = table.named("target", _is_number) or _fractions(table), table.named("label", _is_label)
    if target is None or (label is not None and _repeats(table, label)):
        return None
    pair = [table.named(ours, _is_text) for ours in ("text", "text_pair")]
    if {"sentence1", "sentence2"} <= set(table.fitting(_is_text)):
        pair = ["sentence1", "sentence2"]
    texts = [name for name in _texts(table) if not _repeats(table, name)]
    text = pair[0] or max(texts, key=table.length, default=None)
    if text is None:
        return None
    columns = {"text": text, **({"text_pair": pair[1]} if pair[1] else {}), "target": target}
    return Recognised("regression", f"{target} is a number for each {text}", columns)


def _fractions(table: Table) -> str | None:
    """The one column of numbers with fractions, whatever its name, where no other could be a column of classes."""
    numbers = [name for name in table.fitting(_is_number) if not _repeats(table, name)]
    found = [name for name in numbers if any("." in str(value) for value in table.values[name])]
    classes = [name for name in table.fitting(_is_label) if _repeats(table, name)]
    return found[0] if len(found) == 1 and not classes else None


def _classes(table: Table) -> Recognised | None:
    label = table.named("label", _is_label) or min(
        (name for name in table.fitting(_is_label) if _repeats(table, name)),
        key=lambda name: len(set(map(str, table.values[name]))), default=None,
    )  # fmt: skip
    texts = [name for name in _texts(table) if name != label and not _repeats(table, name)]
    text = table.named("text", _is_text, [label]) or max(texts, key=table.length, default=None)
    if label is None or text is None:
        return None
    different = {str(value).strip().lower() for value in table.values[label]}
    if not _repeats(table, label) and not _is_name(table, label):
        return Recognised(
            None, f"{label} has {len(different)} values in {len(table.values[label])} rows: neither classes nor numbers"
        )
    feeling = bool(different <= FEELINGS or label.lower() in ("sentiment", "polarity"))
    task = "sentiment-analysis" if feeling else "text-classification"
    return Recognised(task, f"{label} repeats: {len(different)} values", {"text": text, "label": label})


TESTS = (_speech, _captions, _conversations, _questions, _words, _translation, _summaries, _numbers, _classes)


def _texts(table: Table) -> list[str]:
    """The columns of texts, keys left out: `id` is also the code of Indonesian, and a digest is longer than a text."""
    texts = table.fitting(_is_text)
    return [name for name in texts if not all(KEY.fullmatch(value) for value in table.values[name])]


def _repeats(table: Table, name: str) -> bool:
    values = [str(value) for value in table.values[name]]
    return len(set(values)) <= max(2, MOST_LABELS * len(values))


def _is_name(table: Table, column: str) -> bool:
    """Whether a column holds short texts: classes of which each has few rows."""
    return all(isinstance(value, str) for value in table.values[column]) and table.length(column) <= SHORT


def _code(name: str) -> bool:
    import langcodes

    last = name.rpartition(".")[2]
    return langcodes.tag_is_valid(last) and bool(langcodes.Language.get(last).language_name() != last)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _is_tags(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str | int) for one in value)


def _is_index(value: Any) -> bool:
    return isinstance(value, str) and value.isdigit()


def _is_answer(value: Any) -> bool:
    return isinstance(value, str | dict) or (isinstance(value, list) and all(isinstance(v, str | dict) for v in value))


def _is_number(value: Any) -> bool:
    """A number, as a table may have it; or a list of some."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
    if isinstance(value, str):
        return re.fullmatch(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", value.strip()) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int | bool) or (isinstance(value, float) and value.is_integer())


def _is_file(value: Any, endings: Sequence[str]) -> bool:
    name = value.get("path") if isinstance(value, dict) and "bytes" in value else value
    return isinstance(name, str) and name.lower().endswith(tuple(endings))
