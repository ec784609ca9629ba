"""The bytes of one file -> records: (line, {the file's name: value}), as they are; no column means anything here.

Reads JSON lines, JSON arrays, CSV, TSV and Parquet. A reader is a generator: it yields what it can read, and notes in
its `Log` what it cannot.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from keeltune.utils.errors import Problem, shown

Record = tuple[int, dict[str, Any]]

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RowProblem(Problem):
    """A fault of one row, which `data.bad_rows: skip` may leave out. Any other `Problem` stands for a whole file."""

    file: str = ""
    line: int = 0


class Log:
    """What could not be read of one file, and what its reader knows of its columns."""

    def __init__(self, file: str):
        self.file = file
        self.problems: list[Problem] = []
        self.header: list[str] | None = None
        """The columns that the file declares; None for JSON, whose rows name their own."""
        self.cells_are_text = False
        """CSV and TSV: nothing and an empty text look the same, and a list is written as JSON."""

    def row(self, line: int, kind: str, found: str, expected: str, fix: str, field: str = "", column: int = 0) -> None:
        where = f"{self.file}:{line}:{column}" if column else f"{self.file}:{line}"
        self.problems.append(RowProblem(where, field, found, expected, fix, kind, file=self.file, line=line))

    def whole(self, kind: str, found: str, expected: str, fix: str, field: str = "", place: str = "") -> None:
        self.problems.append(Problem(self.file + place, field, found, expected, fix, kind))


def bare(text: str, width: int = 80) -> str:
    """`shown` for text that is no value: its control characters visible, no type beside it."""
    return shown(text, width).removesuffix(" (text)")


def quoted(names: Iterable[str]) -> str:
    """Names as a message lists them: the first twenty."""
    names = list(names)
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return (", ".join(map(bare, names[:20])) or "none") + more


def _text_lines(data: bytes, log: Log) -> Iterator[tuple[int, str, bool]]:
    """Physical lines as (number, text, sound); a line that is not UTF-8 is reported, and comes with replacements."""
    offset = 0
    for line, raw in enumerate(io.BytesIO(data), 1):
        try:
            text, sound = raw.decode(), True
        except UnicodeDecodeError as error:
            text, sound = raw.decode(errors="replace"), False
            log.row(line, *_not_utf8(error, offset))
        offset += len(raw)
        yield line, text.removeprefix("\ufeff") if line == 1 else text, sound


def _not_utf8(error: UnicodeDecodeError, offset: int) -> tuple[str, str, str, str]:
    found = f"byte 0x{error.object[error.start]:02x} at byte offset {offset + error.start} of the file: {error.reason}"
    fix = "save the file as UTF-8: iconv -f LATIN1 -t UTF-8 FILE (or from what its encoding is)"
    return "not UTF-8", found, "text in UTF-8", fix


# ----------------------------------------------------------------------------------------------------------------- JSON


class _Decoder(json.JSONDecoder):
    """Notes what the JSON standard forbids and Python lets pass: a key given twice, NaN, Infinity."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object, parse_constant=self._constant)
        self.faults: list[tuple[str, str, str, str]] = []

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            twice = (name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
            found = f"more than once in a row: {quoted(twice)}"
            self.faults.append(("key given twice", found, "each key once", "keep one of the values"))
        return fields

    def _constant(self, name: str) -> None:
        fix = "write null, a number, or leave the field out"
        self.faults.append(("NaN in JSON", name, "JSON, which has no NaN and no Infinity", fix))

    def is_row(self, value: Any, line: int, log: Log) -> bool:
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


def read_json(data: bytes, log: Log) -> Iterator[Record]:
    """JSON lines or one JSON array, whichever the file holds and whatever its ending."""
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


def _begins_with_a_value(data: bytes) -> bool:
    try:
        json.JSONDecoder().raw_decode(data.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines(data: bytes, log: Log) -> Iterator[Record]:
    decoder = _Decoder()
    for line, text, sound in _text_lines(data, log):
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


def _broken_line(error: Exception, line: int, text: str, log: Log) -> None:
    refused = partial(log.row, line, expected="one JSON object a line")
    if not isinstance(error, json.JSONDecodeError):  # nested too deeply, a number of thousands of digits
        refused(kind="broken JSON", found=f"{type(error).__name__}: {error}", fix="correct the line")
        return
    column = min(error.pos, len(text.rstrip())) + 1
    found = f"{error.msg} at column {column}: {bare(text[max(0, column - 30) :].rstrip(), 60)}"
    if not text.endswith("\n") and (column > len(text) or error.msg.startswith("Unterminated")):
        fix = "the file ends within this row: copy the file again, or delete the line"
        refused(kind="last line cut", found=found, fix=fix, column=column)
    else:
        refused(kind="broken JSON", found=found, fix="correct the line", column=column)


_BLANK = re.compile(r"[ \t\r\n]*")


def _after_blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _array(data: bytes, log: Log) -> Iterator[Record]:
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
        log.whole(*_not_utf8(error, len(data) - len(error.object)))
    except (ValueError, RecursionError) as error:
        place, found = "", f"{error} in element {number}"
        if isinstance(error, json.JSONDecodeError):
            place = f":{error.lineno}:{error.colno}"
            found = f"{error.msg} in element {number}: {bare(error.doc[max(0, error.pos - 30) :][:61], 60)}"
        fix = "correct the file (jq . FILE tests it); what comes after this place was not read"
        log.whole("broken JSON array", found, "a JSON array of objects", fix, place=place)


# ------------------------------------------------------------------------------------------------------------- CSV, TSV


class _Lines:
    """Lines for the csv reader that can be set back: after a fault, reading goes on with the next line."""

    def __init__(self, lines: Sequence[str]):
        self.lines, self.read = lines, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self.read == len(self.lines):
            raise StopIteration
        self.read += 1
        return self.lines[self.read - 1]


def read_delimited(data: bytes, log: Log, delimiter: str) -> Iterator[Record]:
    """CSV and TSV with a header line.

    Many TSV files know no quoting and hold lone quotation marks. So a TSV that has any is read both ways, and the way
    with fewer faults counts (then the one with more rows, then quoting).
    """
    log.cells_are_text = True
    lines, spoiled = [], set()
    for line, text, sound in _text_lines(data, log):
        lines.append(text)
        if not sound:
            spoiled.add(line)
    either = delimiter == "\t" and any('"' in line for line in lines)
    readings = [_table(lines, spoiled, Log(log.file), delimiter, quoting) for quoting in (True, False)[: 1 + either]]
    rows, best = min(readings, key=lambda reading: (len(reading[1].problems), -len(reading[0])))
    log.header = best.header
    log.problems += best.problems
    yield from rows


def _table(
    lines: Sequence[str], spoiled: set[int], log: Log, delimiter: str, quoting: bool
) -> tuple[list[Record], Log]:
    csv.field_size_limit(2**31 - 1)  # a long text is no fault; the module's own limit is 128 kB
    feed = _Lines(lines)
    style: Literal[0, 3] = csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
    reader = csv.reader(feed, delimiter=delimiter, quoting=style, strict=True)
    header: list[str] = []
    rows: list[Record] = []
    while feed.read < len(lines):
        start = feed.read + 1
        try:
            cells = next(reader)
        except csv.Error as error:
            feed.read = start  # the lines that this record has swallowed are read as records of their own
            found = f"a quotation mark that is not closed, in the record that begins here ({error})"
            fix = 'close it; a quotation mark inside a quoted text is written twice: ""'
            log.row(start, "unclosed quote", found, 'quoted texts as in "…"', fix)
            continue
        if not cells or (len(cells) == 1 != len(header) and not cells[0].strip()):
            continue  # a blank line
        if not header:
            header = cells
            if not _is_header(header, log, start, delimiter):
                break
        elif len(cells) != len(header):
            at_end = feed.read == len(lines) and not lines[-1].endswith("\n")
            _wrong_width(cells, header, log, start, at_end)
        elif spoiled.isdisjoint(range(start, feed.read + 1)):
            rows.append((start, dict(zip(header, cells, strict=True))))
    return rows, log


_DELIMITERS = {",": ("commas", ".csv"), "\t": ("tabs", ".tsv"), ";": ("semicolons", ""), "|": ("bars", "")}


def _is_header(header: list[str], log: Log, line: int, delimiter: str) -> bool:
    log.header, place = header, f":{line}"
    other = next((d for d in _DELIMITERS if d != delimiter and d in header[0]), "")
    if len(header) == 1 and other:
        (ours, _), (theirs, ending) = _DELIMITERS[delimiter], _DELIMITERS[other]
        fix = f"let the file's name end in {ending}" if ending else f"save the file with {ours} between the columns"
        found = f"one column, {quoted(header)}: {theirs} between the columns"
        log.whole("wrong delimiter", found, f"{ours} between the columns", fix, place=place)
        return False
    twice = [name for name, times in Counter(header).items() if times > 1]
    if twice:
        found = f"more than once in the first line: {quoted(twice)}"
        log.whole("duplicate column", found, "each column once", "rename or delete one of them", place=place)
    return not twice


def _wrong_width(cells: list[str], header: list[str], log: Log, line: int, at_end: bool) -> None:
    found, expected = f"{len(cells)} columns: {shown(cells)}", f"{len(header)} columns: {quoted(header)}"
    if len(cells) > len(header):
        log.row(line, "extra column", found, expected, 'put a text that holds the delimiter in quotation marks: "…"')
    elif at_end:
        log.row(line, "missing column", found, expected, "the file ends here, perhaps cut: copy it again")
    else:
        log.row(line, "missing column", found, expected, "add what is missing, or close a quotation mark")


# -------------------------------------------------------------------------------------------------------------- Parquet


def read_parquet(data: bytes, log: Log) -> Iterator[Record]:
    import pyarrow as pa  # costs a third of a second, and few recipes need it
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
        table.validate(full=True)
        columns = [column.to_pylist() for column in table.columns]
    except (pa.ArrowException, OSError, ValueError) as error:
        log.whole("broken Parquet", bare(str(error), 200), "a whole Parquet file", "copy, download or write it again")
        return
    header: list[str] = table.column_names
    log.header = header
    if len(set(header)) < len(header):
        log.whole("duplicate column", quoted(header), "each column once", "rename or delete one of them")
        return
    for line, values in enumerate(zip(*columns, strict=True), 1):
        yield line, dict(zip(header, values, strict=True))


READERS: dict[str, Callable[[bytes, Log], Iterator[Record]]] = {
    ".jsonl": read_json,
    ".json": read_json,
    ".csv": partial(read_delimited, delimiter=","),
    ".tsv": partial(read_delimited, delimiter="\t"),
    ".parquet": read_parquet,
}
"""The file endings that are read, and what reads them."""
