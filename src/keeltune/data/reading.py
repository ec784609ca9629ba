"""Records -> rows: our names, checked values, a key. Every row of every file is read, and every problem reported."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from keeltune.data.column_hints import likely
from keeltune.data.columns import KINDS, MEDIA, STRUCTURED, Column, Refused, extra, read_cell, read_media
from keeltune.data.dataset import Row, content_key
from keeltune.data.file_formats.file_format import FileLog, Record
from keeltune.data.sources import DataSource
from keeltune.utils.collection import paused_collection
from keeltune.utils.errors import Problem, name_list, nearest, shown, visible
from keeltune.utils.names import plain_name


@paused_collection()
def read(
    source: DataSource, columns: Sequence[Column], mapping: Mapping[str, str], *, labelled: bool = True
) -> tuple[list[Row], list[Problem]]:
    """The good rows of `source`, and a problem for everything else that is in it. Never raises for the data's sake.

    columns    the task's
    mapping    our name -> the file's name, as `data.columns` has it; where both are there, the mapped one counts
    labelled   False: label columns are left out, of the rows and of their keys
    """
    names = [column.name for column in columns]
    problems = [_not_a_column(name, names, source.where) for name in mapping if name not in names]
    wanted = [column for column in columns if labelled or not column.label]
    renamed = {column.name: mapping.get(column.name, column.name) for column in columns}
    rows: list[Row] = []
    first: FileLog | None = None
    parts, refused = source.parts()
    for log, records in parts:
        rows += rows_of(records, log, wanted, renamed)
        if first and log.header and set(log.header) != set(first.header or ()):
            fix = "give the files of a folder the same columns, or name one of the files"
            expected = f"those of {Path(first.file).name}: {name_list(first.header or ())}"
            log.whole("shards with different columns", f"columns {name_list(log.header)}", expected, fix)
        first = first or (log if log.header else None)
        problems += log.problems
    return rows, problems + refused


_ABSENT = object()


def rows_of(records: Iterator[Record], log: FileLog, wanted: Sequence[Column], renamed: Mapping[str, str]) -> list[Row]:
    """The sound rows of one file; `renamed` holds all columns of the task, `wanted` those that are read."""
    readers = [(column, _reader(column, log)) for column in wanted]
    optional_and_empty = (None, "") if log.cells_are_text else (None,)
    file, rows = log.file, list[Row]()
    header: dict[str, Any] = {}  # the columns that its rows have, in order
    spelt, extras, width = dict(renamed), list[str](), -1  # a first row of no column at all counts too
    there: list[tuple[Column, str, Callable[[Any], Any]]] = []
    missing: list[tuple[int, Column, dict[str, Any]]] = []
    sample: list[dict[str, Any]] = []
    for line, record in _opened(records, renamed.values()):
        header.update(record)
        if len(header) != width:
            width, spelt = len(header), _names_in_file(renamed, header)
            known = {*renamed, *renamed.values(), *spelt.values()}  # everything else in a record travels along
            extras = [name for name in header if name not in known]
            there = [(c, spelt[c.name], read_it) for c, read_it in readers if c.required or spelt[c.name] in header]
        if len(sample) < 100:
            sample.append(record)
        fields: dict[str, Any] = {}
        sound = True
        for column, in_file, read_value in there:
            value = record.get(in_file, _ABSENT)
            if column.required:
                if value is _ABSENT:
                    missing.append((line, column, record))
                    sound = False
                    continue
            elif value is _ABSENT or value in optional_and_empty:
                continue
            try:
                fields[column.name] = read_value(value)
            except Refused as refused:
                log.refused(line, column.name, value, refused)
                sound = False
        try:
            key = content_key(fields) if sound else ""
        except ValueError:
            _note_unwritable(fields, line, log)
            continue
        for name in extras:
            if name in record:
                try:
                    fields[name] = extra(record[name])
                except Refused as refused:
                    log.refused(line, name, record[name], refused)
                    sound = False
        if sound:
            rows.append(Row(fields, file, line, key))
    places = [(column, spelt[column.name]) for column in wanted]
    _report_missing(missing, places, list(header), sample, log)
    return rows


def _note_unwritable(fields: Mapping[str, Any], line: int, log: FileLog) -> None:
    """Notes the columns of a row that hold what cannot be written, in a format that lets it pass."""
    for name, value in fields.items():
        try:
            extra(value)
        except Refused as refused:
            log.refused(line, name, value, refused)


def _opened(records: Iterator[Record], names: Iterable[str]) -> Iterator[Record]:
    """Records in which a dotted name, as `translation.en`, is what lies inside: {"translation": {"en": "…"}}."""
    dotted = [(name, name.split(".")) for name in names if "." in name]
    if not dotted:
        yield from records
        return
    for line, record in records:
        for name, steps in dotted:
            value: Any = record
            for step in steps if name not in record else ():
                value = value.get(step, _ABSENT) if isinstance(value, dict) else _ABSENT
            if value is not record and value is not _ABSENT:
                record = {**record, name: value}
        yield line, record


def _names_in_file(renamed: Mapping[str, str], header: Collection[str]) -> dict[str, str]:
    """The columns as the file spells them: with a blank after the comma, another Unicode form, a byte order mark."""
    plain = {plain_name(name): name for name in header}
    return {
        name: in_file if in_file in header else plain.get(plain_name(in_file), in_file)
        for name, in_file in renamed.items()
    }


def _reader(column: Column, log: FileLog) -> Callable[[Any], Any]:
    """From what the file holds to what a row holds, or `Refused`."""
    check, folder = KINDS[column.kind], Path(log.file).parent
    if column.kind == "label":
        check = _remembered(check)
    if column.kind in MEDIA:
        return lambda value: read_media(check(value), folder)
    if log.cells_are_text and column.kind in STRUCTURED:
        return lambda value: check(read_cell(value))
    return check


def _remembered(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`check`, once for each text: labels repeat, and rows then share one text in memory."""
    known: dict[str, Any] = {}

    def checked(value: Any) -> Any:
        if type(value) is not str:
            return check(value)
        if value not in known:
            known[value] = check(value)
        return known[value]

    return checked


def _report_missing(
    missing: Sequence[tuple[int, Column, dict[str, Any]]],
    places: Sequence[tuple[Column, str]],
    header: Sequence[str],
    sample: Sequence[dict[str, Any]],
    log: FileLog,
) -> None:
    """The columns that a file lacks, and the fields that some of its rows lack."""
    in_files = {column.name: in_file for column, in_file in places}
    for column, in_file in places:
        if sample and in_file not in header and (column.required or in_file != column.name):
            taken = {name for other, name in places if other is not column and name in header}
            _missing_in_file(column, in_file, header, sample, log, taken)
    for line, column, record in missing:
        in_file = in_files[column.name]
        if in_file in header:
            found = _not_among(in_file, tuple(record))
            log.row(line, "missing field", found, f'a field "{in_file}"', "add it, or correct its name", column.name)
    if not sample and all(problem.severity == "warning" for problem in log.problems):
        log.whole("no rows", "a header or an empty list, and no row", "at least one row", "put the data there")


def _not_a_column(name: str, names: Sequence[str], where: str) -> Problem:
    found = f"{shown(name)}{nearest(name, names)}"
    fix = f"write our name: the file's name, as in {{{names[0]}: body}}"
    expected = f"a column of the task: {', '.join(names)}"
    return Problem(where, "data.columns", found, expected, fix, "unknown column name")


@lru_cache(maxsize=1000)  # the same columns are missing row after row
def _not_among(name: str, header: tuple[str, ...]) -> str:
    return f"no {visible(name)} among {name_list(header)}{nearest(name, header)}"


def _missing_in_file(
    column: Column,
    in_file: str,
    header: Sequence[str],
    sample: Sequence[Mapping[str, Any]],
    log: FileLog,
    taken: Collection[str],
) -> None:
    meant = likely(column, header, sample, taken, log.cells_are_text)
    example = f"{{{column.name}: {meant or 'NAME'}}}"
    fix = f"say which one it is under data.columns{', as in' if meant is None else ', perhaps'} {example}"
    if in_file != column.name:
        fix = f"correct data.columns, which says {{{column.name}: {in_file}}}" + (
            f"; perhaps {example}" if meant else ""
        )
    elif log.cells_are_text and _looks_like_a_row(header, sample):
        fix = "the first line seems to be a row: put a line with the names of the columns above it"
    log.whole("missing column", _not_among(in_file, tuple(header)), f'a column "{in_file}"', fix, column.name)


def _looks_like_a_row(header: Iterable[str], records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a file's first line holds values, not names: a number, a sentence, or what other rows hold there too."""
    return any(
        re.fullmatch(r"[-+.\d]+", name) or len(name.split()) > 3 or any(record[name] == name for record in records)
        for name in header
    )
