"""Whole rows of every task, as a user's file has them, and the files that they name."""

from __future__ import annotations

import csv
import gzip
import io
import json
import wave
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TASKS = (
    "sentiment-analysis", "text-classification", "question-answering", "summarization", "translation",
    "semantic-role-labeling", "image-captioning", "speech-recognition", "text-generation",
)  # fmt: skip

_CONTEXT = "The film was long, and Ann Lee was dull."
_PAIRS = [("the film is good", "der Film ist gut"), ("not good", "nicht gut"), ("it was fine and short", "es war gut")]
_REVIEWS = [("a good film", "positive"), ("a dull plot", "negative"), ("the plot is fine", "positive")]


def _named(first: str, second: str, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{first: a, second: b} for a, b in pairs]


ROWS: dict[str, list[dict[str, Any]]] = {
    "sentiment-analysis": _named("text", "label", _REVIEWS),
    "text-classification": _named("text", "label", _REVIEWS),
    "question-answering": [
        {"question": "who was dull?", "context": _CONTEXT, "answers": {"text": ["Ann Lee"], "answer_start": [23]}},
        {"question": "what was long?", "context": _CONTEXT, "answers": {"text": ["The film"], "answer_start": [0]}},
        {"question": "where was Bob?", "context": _CONTEXT, "answers": {"text": [], "answer_start": []}},
    ],
    "summarization": _named("document", "summary", _PAIRS),
    "translation": _named("source", "target", _PAIRS),
    "semantic-role-labeling": [
        {"tokens": ["Mary", "ran"], "predicate_index": 1, "tags": ["B-ARG0", "B-V"]},
        {"tokens": ["he", "ate", "fish", "!"], "predicate_index": 1, "tags": ["B-ARG0", "B-V", "B-ARG1", "O"]},
        {"tokens": ["the", "cat", "ran"], "predicate_index": 2, "tags": ["B-ARG0", "I-ARG0", "B-V"]},
    ],
    "image-captioning": [
        {"image": f"{name}.png", "captions": [f"a {name} square", f"a square, {name}"]} for name in ("red", "green", "blue")
    ],
    "speech-recognition": [{"audio": f"{n}.wav", "text": t} for n, t in enumerate(("zero", "one", "two two"))],
    "text-generation": _named("prompt", "completion", _PAIRS),
}  # fmt: skip

TEXT_FIELD = {
    "sentiment-analysis": "text", "text-classification": "text", "question-answering": "context",
    "summarization": "document", "translation": "source", "semantic-role-labeling": "tokens",
    "image-captioning": "captions", "speech-recognition": "text", "text-generation": "completion",
}  # fmt: skip
"""A field of each task that holds text."""


def picture(
    colour: str = "red", size: tuple[int, int] = (48, 40), mode: str = "RGB", kind: str = "PNG", **options: Any
) -> bytes:
    from PIL import Image

    sink = io.BytesIO()
    made = Image.new("RGB", size, colour)
    (made.convert("L").convert("I").convert("I;16") if mode == "I;16" else made.convert(mode)).save(
        sink, kind, **options
    )
    return sink.getvalue()


def tone(seconds: float = 0.5, rate: int = 16_000, channels: int = 1, width: int = 2, loud: int = 9000) -> bytes:
    """A WAV file of a square wave."""
    sink = io.BytesIO()
    with wave.open(sink, "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        cycle = b"".join(
            (sign * loud).to_bytes(width, "little", signed=True) * channels for sign in (1, 1, 1, -1, -1, -1)
        )
        file.writeframes(cycle * int(seconds * rate / 6))
    return sink.getvalue()


@cache
def beside(task: str) -> dict[str, bytes]:
    """The files that the rows of a task name."""
    if task == "image-captioning":
        return {f"{name}.png": picture(name) for name in ("red", "green", "blue")}
    if task == "speech-recognition":
        return {f"{n}.wav": tone(0.5 + 0.1 * n) for n in range(3)}
    return {}


def json_lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def changed(task: str, at: int = 1, **fields: Any) -> bytes:
    """The rows of a task as JSON lines, some fields of one of them with other values; `...` leaves a field out."""
    rows = [dict(row) for row in ROWS[task]]
    rows[at] = {name: value for name, value in (rows[at] | fields).items() if value is not ...}
    return json_lines(rows)


def with_line(task: str, line: bytes) -> bytes:
    """The rows of a task as JSON lines, the second of them this one."""
    first, _, *rest = ROWS[task]
    return json_lines([first]) + line + b"\n" + json_lines(rest)


def table(rows: list[dict[str, Any]], **dialect: Any) -> bytes:
    """As a CSV file; what is no text is written as JSON."""
    sink = io.StringIO()
    writer = csv.writer(sink, **dialect)
    writer.writerow(rows[0])
    writer.writerows([v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in rows)
    return sink.getvalue().encode()


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)
