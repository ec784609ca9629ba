from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from keeltune.data.file_formats.file_format import BOM, FileFormat, FileLog, Record, not_utf8, text_lines
from keeltune.utils.errors import name_list, shown, visible


class Json(FileFormat):
    """JSON lines or one JSON array of objects: whichever the file holds, whatever its ending."""

    endings = (".jsonl", ".json")

    def records(self, data: bytes, log: FileLog) -> Iterator[Record]:
        body = data.removeprefix(BOM).lstrip()
        first, _, rest = body.partition(b"\n")
        in_lines = _begins_with_a_value(first)
        if body.startswith(b"[") and not (in_lines and rest.strip()):
            yield from _array(data, log)
        elif body.startswith(b"{") and not in_lines and _begins_with_a_value(body):
            fix = "write one row a line (jq -c . FILE), or the rows as one array"
            expected = "one object a line, or an array of objects"
            log.whole("object over several lines", "a JSON object over several lines", expected, fix)
        else:
            yield from _json_lines(data, log)


class _Decoder(json.JSONDecoder):
    """Notes what the JSON standard forbids and Python lets pass: a key given twice, NaN, Infinity."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object, parse_constant=self._constant)
        self.faults: list[tuple[str, str, str, str]] = []

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            twice = (name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
            found = f"more than once in a row: {name_list(twice)}"
            self.faults.append(("key given twice", found, "each key once", "keep one of the values"))
        return fields

    def _constant(self, name: str) -> None:
        fix = "write null, a number, or leave the field out"
        self.faults.append(("NaN in JSON", name, "JSON, which has no NaN and no Infinity", fix))

    def is_row(self, value: Any, line: int, log: FileLog) -> bool:
        """Whether the value just read is a row; otherwise the log says why not."""
        if type(value) is dict and not self.faults:
            return True
        if not self.faults:
            fix = "give each value the name of its column"
            log.row(line, "row not an object", shown(value), 'an object, as in {"text": "…"}', fix)
        for fault in self.faults:
            log.row(line, *fault)
        self.faults.clear()
        return False


def _begins_with_a_value(data: bytes) -> bool:
    try:
        json.JSONDecoder().raw_decode(data.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines(data: bytes, log: FileLog) -> Iterator[Record]:
    decoder = _Decoder()
    for line, text, sound in text_lines(data, log):
        if not sound or text.isspace():
            continue
        try:
            value = decoder.decode(text)
        except (ValueError, RecursionError) as error:
            decoder.faults.clear()
            _broken_line(error, line, text, log)
        else:
            if decoder.is_row(value, line, log):
                yield line, value


def _broken_line(error: Exception, line: int, text: str, log: FileLog) -> None:
    refused = partial(log.row, line, expected="one JSON object a line")
    if not isinstance(error, json.JSONDecodeError):  # nested too deeply, a number of thousands of digits
        refused(kind="broken JSON", found=f"{type(error).__name__}: {error}", fix="correct the line")
        return
    column = min(error.pos, len(text.rstrip())) + 1
    found = f"{error.msg} at column {column}: {visible(text[max(0, column - 30) :].rstrip(), 60)}"
    if not text.endswith("\n") and (column > len(text) or error.msg.startswith("Unterminated")):
        fix = "the file ends within this row: copy the file again, or delete the line"
        refused(kind="last line cut", found=found, fix=fix, column=column)
    else:
        refused(kind="broken JSON", found=found, fix="correct the line", column=column)


_BLANK = re.compile(r"[ \t\r\n]*")


def _after_blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _array(data: bytes, log: FileLog) -> Iterator[Record]:
    """The elements of one JSON array, counted from 1. Decoded one by one, so that each fault has its element."""
    number = 0
    try:
        text, decoder = data.removeprefix(BOM).decode(), _Decoder()
        at = _after_blank(text, text.index("[") + 1)
        more = text[at : at + 1] != "]"
        while more:
            number += 1
            value, at = decoder.raw_decode(text, at)
            if decoder.is_row(value, number, log):
                yield number, value
            at = _after_blank(text, at)
            more = text[at : at + 1] == ","
            at = _after_blank(text, at + 1) if more else at
        if text[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
        if text[at + 1 :].strip():
            raise json.JSONDecodeError("Extra data after the array", text, at + 1)
    except UnicodeDecodeError as error:
        log.whole(*not_utf8(error, len(data) - len(error.object)))
    except (ValueError, RecursionError) as error:
        place, found = "", f"{error} in element {number}"
        if isinstance(error, json.JSONDecodeError):
            place = f":{error.lineno}:{error.colno}"
            found = f"{error.msg} in element {number}: {visible(error.doc[max(0, error.pos - 30) :][:61], 60)}"
        fix = "correct the file (jq . FILE tests it); what comes after this place was not read"
        log.whole("broken JSON array", found, "a JSON array of objects", fix, place=place)
