"""What CSV and TSV share: a header line, cells between delimiters, quoted texts."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from keeltune.data.file_formats.file_format import FileFormat, FileLog, Record, text_lines
from keeltune.utils.errors import name_list, shown


class Delimited(FileFormat):
    """A table with a header line and a delimiter between its cells."""

    cells_are_text = True

    delimiter: ClassVar[str]

    knows_quoting: ClassVar[bool]
    """Whether a quotation mark always begins a quoted text. Many TSV files know no quoting and hold lone ones."""

    def records(self, data: bytes, log: FileLog) -> Iterator[Record]:
        """A table with lone quotation marks is read both ways, and the way with fewer faults counts (then the one with
        more rows, then quoting).
        """
        lines, spoiled = [], set()
        for line, text, sound in text_lines(data, log):
            lines.append(text)
            if not sound:
                spoiled.add(line)
        delimiter, knows_quoting = self._delimiter(lines, log), self.knows_quoting
        either = not knows_quoting and any('"' in line for line in lines)
        readings = [
            _table(lines, spoiled, FileLog(log.file), delimiter, quoting) for quoting in (True, False)[: 1 + either]
        ]
        rows, best = min(readings, key=lambda reading: (len(reading[1].problems), -len(reading[0])))
        log.header = best.header
        log.problems += best.problems
        yield from rows

    def _delimiter(self, lines: Sequence[str], log: FileLog) -> str:
        """The format's own, or another that certainly is this file's: it alone cuts the header into several columns,
        and the first rows into as many; then the log says so."""
        header = next((line for line in lines if line.strip()), "")
        if self.delimiter in header:
            return self.delimiter
        for other in (d for d in _DELIMITERS if d in header):
            sample = _table(lines[:SAMPLE], set(), FileLog(log.file), other, quoting=True)
            if sample[0] and not sample[1].problems and len(sample[1].header or ()) > 1:
                ours, theirs = _DELIMITERS[self.delimiter][0], _DELIMITERS[other][0]
                columns = name_list(sample[1].header or ())
                found, expected = f"{theirs} between the columns: {columns}", f"{ours}, by the file's ending"
                log.read_otherwise("other delimiter", found, expected, f"nothing: it is read with {theirs}")
                return other
        return self.delimiter


SAMPLE = 200
"""Lines that are looked at for another delimiter."""


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


def _table(
    lines: Sequence[str], spoiled: set[int], log: FileLog, delimiter: str, quoting: bool
) -> tuple[list[Record], FileLog]:
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


def _is_header(header: list[str], log: FileLog, line: int, delimiter: str) -> bool:
    log.header, place = header, f":{line}"
    other = next((d for d in _DELIMITERS if d != delimiter and d in header[0]), "")
    if len(header) == 1 and other:
        (ours, _), (theirs, ending) = _DELIMITERS[delimiter], _DELIMITERS[other]
        fix = f"let the file's name end in {ending}" if ending else f"save the file with {ours} between the columns"
        found = f"one column, {name_list(header)}: {theirs} between the columns"
        log.whole("wrong delimiter", found, f"{ours} between the columns", fix, place=place)
        return False
    twice = [name for name, times in Counter(header).items() if times > 1]
    if twice:
        found = f"more than once in the first line: {name_list(twice)}"
        log.whole("duplicate column", found, "each column once", "rename or delete one of them", place=place)
    return not twice


def _wrong_width(cells: list[str], header: list[str], log: FileLog, line: int, at_end: bool) -> None:
    found, expected = f"{len(cells)} columns: {shown(cells)}", f"{len(header)} columns: {name_list(header)}"
    if len(cells) > len(header):
        log.row(line, "extra column", found, expected, 'put a text that holds the delimiter in quotation marks: "…"')
    elif at_end:
        log.row(line, "missing column", found, expected, "the file ends here, perhaps cut: copy it again")
    else:
        log.row(line, "missing column", found, expected, "add what is missing, or close a quotation mark")
