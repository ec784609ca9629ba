"""A column's value: what a row may hold, checked and normalised, by the kind of the column."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from keeltune.data.conversations import read_messages
from keeltune.data.media import Media, Unreadable, content_of
from keeltune.data.text_values import Refused, read_text, whole_characters
from keeltune.utils.errors import visible
from keeltune.utils.json import JsonFault, parse_json
from keeltune.utils.names import plain_name


@dataclass(frozen=True)
class Column:
    """A column of a task. `kind` says how its values are checked: a key of `KINDS`; `names`: of a column of tags what
    the file's are called in the model, where it calls them otherwise."""

    name: str
    kind: str = "text"
    required: bool = True
    label: bool = False
    names: tuple[tuple[str, str], ...] = ()


class Schema(Protocol):
    """What reading asks of a task: its columns."""

    columns: ClassVar[tuple[Column, ...]]


def read_cell(value: Any) -> Any:
    """A CSV cell as the value that JSON would have there, where the column holds lists or mappings."""
    try:
        return parse_json(value)
    except JsonFault:
        return value


def extra(value: Any) -> Any:
    """The value of a column that travels along, as JSON can write it: what is no number is nothing."""
    kind = type(value)
    if kind is str:
        return whole_characters(value)
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is list:
        return [extra(inner) for inner in value]
    if kind is dict:
        return {extra(name): extra(inner) for name, inner in value.items()}
    return value


def _label(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str):
        if value.startswith("-") and value[1:].isdecimal():
            fix = "number the classes from 0; rows without a label belong in data.unlabeled"
            raise Refused("negative label", "a name or a whole number from 0", fix)
        return plain_name(read_text(value)) or read_text("")
    if value is None:
        raise Refused("no label", "a name or a whole number", "give the row one, or move it to data.unlabeled")
    if isinstance(value, bool):
        raise Refused("label true/false", "a name or a whole number", f'quote it: "{str(value).lower()}"')
    if isinstance(value, list):
        raise Refused("list of labels", "one label", "say data.multi_label: true where a row may have several")
    raise Refused("not a label", "a name or a whole number", "write it as one of these")


def _labels(value: Any) -> list[str]:
    if not isinstance(value, list):
        fix = 'write it as a list, as in ["news"], or say data.multi_label: false'
        raise Refused("not a list of labels", "a list of labels, perhaps empty", fix)
    names = [_label(name) for name in value]
    if len(set(names)) < len(names):
        raise Refused("label given twice", "each label once in the list", "keep one of them")
    return names


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not value:
        raise Refused("not a list of texts", "a list with at least one text", 'write it as a list, as in ["…"]')
    return [read_text(one) for one in value]


def _words(value: Any) -> list[str]:
    """Tokens or tags of a sentence."""
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
        raise Refused("not a list of words", "a list of words, none of them empty", 'write it as in ["the", "cat"]')
    return list(value)


def _sentence(value: Any) -> list[str] | str:
    """Words, or the text that they are words of."""
    return read_text(value) if isinstance(value, str) else _words(value)


def _tags(value: Any) -> list[str]:
    """Names, or the numbers of some."""
    if isinstance(value, list):
        value = [str(tag) if type(tag) is int and tag >= 0 else tag for tag in value]
    return [plain_name(tag) or read_text("") for tag in _words(value)]


def _numbers(value: Any) -> float | list[float]:
    """A number, or a list of some; also as text, as a table has them."""
    if isinstance(value, list):
        if not value:
            raise Refused("no number", "a number, or a list of some", "give the row one, or leave it out")
        return [_number(one) for one in value]
    return _number(value)


def _number(value: Any) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            fix = "write it with a point and without a unit, as in 3.5"
            raise Refused("not a number", "a number, or a list of some", fix) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        fix = "fill it, or move the row to data.unlabeled" if value is None else "write it as in 3.5"
        raise Refused("not a number", "a number, or a list of some", fix)
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise Refused("not a finite number", f"a number of at most {LARGEST:g}", "leave the row out, or mend it")
    return float(value)


def _index(value: Any, fix: str = "count the words from 0") -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) < 19:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Refused("not an index", "a whole number from 0", fix)
    return value


def _media(value: Any) -> Any:
    """A path, or the content with a name; `read_media` finds the file."""
    is_content = isinstance(value, bytes) or (isinstance(value, dict) and {"bytes", "path"} & value.keys())
    return value if is_content else read_text(value)


def _answers(value: Any) -> dict[str, list[Any]]:
    fix = 'write it as {"text": ["…"], "answer_start": [0]}, with empty lists where there is no answer'
    if isinstance(value, list) and all(
        isinstance(one, dict) and {"text", "answer_start"} <= one.keys() for one in value
    ):
        value = {name: [one[name] for one in value] for name in ("text", "answer_start")}  # SQuAD's own form
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):  # whose places nobody needs
        return {"text": [read_text(text) for text in value], "answer_start": [None] * len(value)}
    if not isinstance(value, dict) or not {"text", "answer_start"} <= value.keys():
        raise Refused("not answers", "a mapping with the lists text and answer_start", fix)
    texts, starts = value["text"], value["answer_start"]
    if not isinstance(texts, list) or not isinstance(starts, list):
        raise Refused("not answers", "two lists, text and answer_start", fix)
    if len(texts) != len(starts):
        expected = f"lists of one length, not {len(texts)} and {len(starts)}"
        raise Refused("lists of unequal length", expected, "give each answer its place")
    for text in texts:
        read_text(text)
    fix = "count characters from 0; where there is no answer, both lists are empty"
    return value | {"answer_start": [_index(start, fix) for start in starts]}


def read_media(value: Any, folder: Path) -> Media:
    """A path in the data, below the data file's folder after resolving, links too, and there; or the content itself,
    as data sets of the hub have it in Parquet: {"bytes": b"…", "path": "a.png"}."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return _held(value["bytes"], value.get("path"))
    if isinstance(value, bytes):
        return _held(value, None)
    value = read_text(value.get("path") if isinstance(value, dict) else value)
    root = folder.resolve()
    try:
        path = (root / value).resolve()
        inside = path.is_relative_to(root)
    except (OSError, ValueError):
        inside = False
    if not inside:
        expected = f"a path below {visible(str(root), 200)}, the data file's folder"
        raise Refused("path outside the data", expected, "put the file there, and write its path from there")
    media = Media(value)
    media.path, media.root = path, root
    try:
        content = content_of(media)
    except Unreadable as fault:
        raise Refused(fault.kind, f"{fault.expected} ({fault.found})", fault.fix) from None
    if not content:
        raise Refused("empty file", "a file with content", "copy it again")
    media.digest = hashlib.sha256(content).hexdigest()
    return media


def _held(content: bytes, name: Any) -> Media:
    if not content:
        raise Refused("empty file", "a file with content", "write the data again")
    digest = hashlib.sha256(content).hexdigest()
    media = Media(name if isinstance(name, str) and name else f"sha256:{digest[:16]}")
    media.path, media.digest, media.content = Path(str(media)), digest, content
    return media


def _anything(value: Any) -> Any:
    """What the task checks itself, as only it knows whether this row uses the column."""
    return value


LARGEST = 1e30
"""Of a number: its square is one too."""

MEDIA = ("image", "audio")

STRUCTURED = ("labels", "texts", "words", "sentence", "tags", "numbers", "messages", "answers")
"""Kinds that a CSV cell holds as JSON."""

KINDS: dict[str, Callable[[Any], Any]] = {
    "text": read_text,
    "label": _label,
    "labels": _labels,
    "texts": _texts,
    "words": _words,
    "sentence": _sentence,
    "tags": _tags,
    "index": _index,
    "numbers": _numbers,
    "messages": read_messages,
    "anything": _anything,
    "answers": _answers,
    "image": _media,
    "audio": _media,
}
"""How the values of a column are checked: from what the file holds to what a row holds, or `Refused`."""
