from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import accumulate, compress
from typing import Any, BinaryIO

from keeltune.data.file_formats._single_objects import rows_inside
from keeltune.data.file_formats.file_format import BOM, Batch, FileFormat, FileLog, Record, in_batches, not_utf8
from keeltune.utils.errors import shown, visible
from keeltune.utils.json import UNSURE, JsonFault, after_blanks, end_of_value, parse_json, parse_lines, strict_prefix


class Json(FileFormat):
    """JSON lines, one JSON array of objects, or one object that holds them (SQuAD's own form): whichever the file
    holds, whatever its ending."""

    endings = (".jsonl", ".json")

    def records(self, data: bytes, log: FileLog) -> Iterator[Record]:
        for batch in self.batches(io.BytesIO(data), log):
            yield from zip(batch.numbers, batch.records, strict=True)

    def batches(self, stream: BinaryIO, log: FileLog) -> Iterator[Batch]:
        """Lines are read as they come; anything else is one value, which is held whole."""
        values = None if _has_lines(stream) else _one_value(stream, log)
        if values is not None:
            yield from in_batches(values)
            return
        stream.seek(_begin(stream))
        yield from _json_lines(stream, log)

    def records_at(self, stream: BinaryIO, starts: Sequence[int]) -> list[dict[str, Any]]:
        lines = []
        for start in starts:
            stream.seek(start)
            lines.append(stream.readline())
        values = parse_lines(lines)
        return [parse_json(line) if value is UNSURE else value for line, value in zip(lines, values, strict=True)]


def _begin(stream: BinaryIO) -> int:
    """Where the text begins, behind a byte order mark."""
    stream.seek(0)
    return len(BOM) if stream.read(len(BOM)) == BOM else 0


def _has_lines(stream: BinaryIO) -> bool:
    """Whether the first line is a value, and not the only one; blank lines do not count."""
    stream.seek(_begin(stream))
    lines = (line for line in stream if line.strip())
    return _is_value(next(lines, b"")) and next(lines, None) is not None


def _one_value(stream: BinaryIO, log: FileLog) -> Iterator[Record] | None:
    """The rows of a file that is one array, or one object with rows inside; None where it is neither."""
    stream.seek(0)
    data = stream.read()
    body = data.removeprefix(BOM).lstrip()
    if body.startswith(b"["):
        return _array(data, log)
    if body.startswith(b"{") and (rows := _inside(body)) is not None:
        return _numbered(rows, log)
    if body.startswith(b"{") and not _is_value(body[: body.find(b"\n") + 1] or body) and _is_value(body):
        fix = "write one row a line (jq -c . FILE), or the rows as one array"
        expected = "one object a line, or an array of objects"
        log.whole("object over several lines", "a JSON object over several lines", expected, fix)
        return iter(())
    return None


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


def _json_lines(stream: BinaryIO, log: FileLog) -> Iterator[Batch]:
    number, end = 1, stream.tell()
    while lines := stream.readlines(_BATCH):
        *starts, end = accumulate(map(len, lines), initial=end)
        numbers: Sequence[int] = range(number, number + len(lines))
        number += len(lines)
        values = parse_lines(lines)
        if set(map(type, values)) != {dict}:
            for i, value in enumerate(values):
                if type(value) is not dict:
                    values[i] = _row(value, lines[i], numbers[i], starts[i], log)
            sound = [value is not UNSURE for value in values]
            numbers, values, starts = (list(compress(column, sound)) for column in (numbers, values, starts))
        if values:
            yield Batch(numbers, values, starts)


def _row(value: Any, raw: bytes, number: int, start: int, log: FileLog) -> Any:
    """The row that a line holds; UNSURE where it is blank or holds none, as is then noted."""
    if value is UNSURE:
        try:
            value = parse_json(raw)
        except JsonFault as fault:
            if not raw.isspace():
                _broken_line(fault, number, raw.decode(), log)
        except UnicodeDecodeError as error:
            log.row(number, *not_utf8(error, start))
    if type(value) is dict or value is UNSURE:
        return value
    _not_a_row(value, number, log)
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
