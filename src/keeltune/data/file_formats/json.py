from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

from keeltune.data.file_formats._single_objects import rows_inside
from keeltune.data.file_formats.file_format import BOM, FileFormat, FileLog, Record, not_utf8
from keeltune.utils.errors import shown, visible
from keeltune.utils.json import UNSURE, JsonFault, after_blanks, end_of_value, parse_json, parse_lines, strict_prefix


class Json(FileFormat):
    """JSON lines, one JSON array of objects, or one object that holds them (SQuAD's own form): whichever the file
    holds, whatever its ending."""

    endings = (".jsonl", ".json")

    def records(self, data: bytes, log: FileLog) -> Iterator[Record]:
        body = data.removeprefix(BOM).lstrip()
        first = body[: body.find(b"\n") + 1] or body
        in_lines = _is_value(first)
        next_line = body.find(b"\n", len(first)) + 1 or len(
            body
        )  # the whole rest is looked at only where this is blank
        alone = not in_lines or not (body[len(first) : next_line].strip() or body[next_line:].strip())
        if body.startswith(b"[") and alone:
            yield from _array(data, log)
        elif body.startswith(b"{") and alone and (rows := _inside(body)) is not None:
            yield from _numbered(rows, log)
        elif body.startswith(b"{") and not in_lines and _is_value(body):
            fix = "write one row a line (jq -c . FILE), or the rows as one array"
            expected = "one object a line, or an array of objects"
            log.whole("object over several lines", "a JSON object over several lines", expected, fix)
        else:
            yield from _json_lines(data, log)


def _inside(body: bytes) -> list[Any] | None:
    """The rows inside of the one object that a file is; None where it is no such object."""
    try:
        return rows_inside(parse_json(body))
    except (JsonFault, UnicodeDecodeError):
        return None


def _numbered(rows: Sequence[Any], log: FileLog) -> Iterator[Record]:
    for number, value in enumerate(rows, 1):
        if type(value) is dict:
            yield number, value
        else:
            _not_a_row(value, number, log)


def _is_value(data: bytes) -> bool:
    try:
        parse_json(data)
    except JsonFault as fault:
        return fault.position is None  # JSON by its form
    except UnicodeDecodeError:
        return False
    return True


_BATCH = 2**18
"""Bytes of lines that are read at once."""


def _json_lines(data: bytes, log: FileLog) -> Iterator[Record]:
    stream, line = io.BytesIO(data), 0
    stream.seek(len(BOM) if data.startswith(BOM) else 0)
    while lines := stream.readlines(_BATCH):
        for index, value in enumerate(parse_lines(lines)):
            line += 1
            if value is UNSURE:
                value = _line_value(lines, index, line, stream, log)
            if type(value) is dict:
                yield line, value
            elif value is not UNSURE:
                _not_a_row(value, line, log)


def _line_value(lines: Sequence[bytes], index: int, line: int, stream: io.BytesIO, log: FileLog) -> Any:
    """The value of one line among those just read; UNSURE where it is blank, or faulty, as is then noted."""
    raw = lines[index]
    try:
        return parse_json(raw)
    except JsonFault as fault:
        if not raw.isspace():
            _broken_line(fault, line, raw.decode(), log)
    except UnicodeDecodeError as error:
        log.row(line, *not_utf8(error, stream.tell() - sum(map(len, lines[index:]))))
    return UNSURE


def _not_a_row(value: Any, line: int, log: FileLog) -> None:
    fix = "give each value the name of its column"
    log.row(line, "row not an object", shown(value), 'an object, as in {"text": "…"}', fix)


def _broken_line(fault: JsonFault, line: int, text: str, log: FileLog) -> None:
    if fault.position is None:
        log.row(line, fault.kind, fault.found, fault.expected, fault.fix)
        return
    column, expected = min(fault.position, len(text.rstrip())) + 1, "one JSON object a line"
    found = f"{fault.found} at column {column}: {visible(text[max(0, column - 30) :].rstrip(), 60)}"
    if fault.unfinished and not text.endswith("\n"):
        fix = "the file ends within this row: copy the file again, or delete the line"
        log.row(line, "last line cut", found, expected, fix, column=column)
    else:
        log.row(line, fault.kind, found, expected, "correct the line", column=column)


def _array(data: bytes, log: FileLog) -> Iterator[Record]:
    """The elements of one JSON array, counted from 1."""
    body = data.removeprefix(BOM)
    try:
        elements = parse_json(body)
    except JsonFault:
        yield from _elements(body.decode(), log)
    except UnicodeDecodeError as error:
        log.whole(*not_utf8(error, len(data) - len(body)))
    else:
        yield from _numbered(elements, log)


def _elements(text: str, log: FileLog) -> Iterator[Record]:
    """Those of an array with a fault, decoded one by one, so that each fault has its element."""
    number = 0
    try:
        at = after_blanks(text, text.index("[") + 1)
        more = text[at : at + 1] != "]"
        while more:
            number += 1
            try:
                value, end = strict_prefix(text, at)
            except JsonFault as fault:
                end = end_of_value(text, at)
                log.row(number, fault.kind, fault.found, fault.expected, fault.fix)
            else:
                if type(value) is dict:
                    yield number, value
                else:
                    _not_a_row(value, number, log)
            at = after_blanks(text, end)
            more = text[at : at + 1] == ","
            at = after_blanks(text, at + 1) if more else at
        if text[at : at + 1] != "]":
            raise JsonFault("broken JSON", "Expecting ',' or ']'", "", "", at)
        if text[at + 1 :].strip():
            raise JsonFault("broken JSON", "Extra data after the array", "", "", at + 1)
    except JsonFault as fault:
        found = f"{fault.in_text(text)} (in element {number})"
        fix = "correct the file (jq . FILE tests it); what comes after this place was not read"
        log.whole("broken JSON array", found, "a JSON array of objects", fix, place=fault.place(text))
