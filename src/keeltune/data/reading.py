"""Records -> rows: our names, checked values, a key. Every row of every file is read, and every problem reported."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from keeltune.data.columns import KINDS, MEDIA, Column, Refused, read_cell, read_media
from keeltune.data.dataset import Row, row_key
from keeltune.data.file_formats.file_format import FileLog, Record
from keeltune.data.sources import DataSource
from keeltune.utils.errors import Problem, name_list, nearest, shown, visible


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
        rows += _rows(records, log, wanted, renamed)
        if first and log.header and set(log.header) != set(first.header or ()):
            fix = "give the files of a folder the same columns, or name one of the files"
            expected = f"those of {Path(first.file).name}: {name_list(first.header or ())}"
            log.whole("shards with different columns", f"columns {name_list(log.header)}", expected, fix)
        first = first or (log if log.header else None)
        problems += log.problems
    return rows, problems + refused


def _rows(records: Iterator[Record], log: FileLog, wanted: Sequence[Column], renamed: Mapping[str, str]) -> list[Row]:
    """The sound rows of one file; `renamed` holds all columns of the task, `wanted` those that are read."""
    names = [column.name for column in wanted]
    known = {*renamed, *renamed.values()}  # everything else in a record travels along
    plan = [(column, column.name, renamed[column.name], column.required, KINDS[column.kind]) for column in wanted]
    rows: list[Row] = []
    header: dict[str, None] = {}  # the columns that its rows have, in order
    missing: list[tuple[int, Column, dict[str, Any]]] = []
    sample: list[dict[str, Any]] = []
    for line, record in records:
        if not record.keys() <= header.keys():
            header.update(dict.fromkeys(record))
        if len(sample) < 100:
            sample.append(record)
        fields: dict[str, Any] = {}
        sound = True
        for column, name, in_file, required, checked in plan:
            if in_file not in record:
                if required:
                    missing.append((line, column, record))
                    sound = False
                continue
            value = record[in_file]
            if not required and (value is None or (value == "" and log.cells_are_text)):
                continue
            try:
                fields[name] = checked(read_cell(value, column) if log.cells_are_text else value)
                if column.kind in MEDIA:
                    fields[name] = read_media(fields[name], Path(log.file).parent)
            except Refused as refused:
                log.row(line, refused.kind, shown(value), refused.expected, refused.fix, name)
                sound = False
        if sound:
            for name in record:
                if name not in known:
                    fields[name] = record[name]
            rows.append(Row(fields, log.file, line, row_key(fields, names)))
    for column, name, in_file, required, _ in plan:
        if sample and in_file not in header and (required or in_file != name):
            _missing_in_file(column, in_file, list(header), sample, log)
    for line, column, record in missing:
        in_file = renamed[column.name]
        if in_file in header:
            found = _not_among(in_file, tuple(record))
            log.row(line, "missing field", found, f'a field "{in_file}"', "add it, or correct its name", column.name)
    if not sample and not log.problems:
        log.whole("no rows", "a header or an empty list, and no row", "at least one row", "put the data there")
    return rows


def _not_a_column(name: str, names: Sequence[str], where: str) -> Problem:
    found = f"{shown(name)}{nearest(name, names)}"
    fix = f"write our name: the file's name, as in {{{names[0]}: body}}"
    expected = f"a column of the task: {', '.join(names)}"
    return Problem(where, "data.columns", found, expected, fix, "unknown column name")


@lru_cache(maxsize=1000)  # the same columns are missing row after row
def _not_among(name: str, header: tuple[str, ...]) -> str:
    return f"no {visible(name)} among {name_list(header)}{nearest(name, header)}"


def _missing_in_file(
    column: Column, in_file: str, header: Sequence[str], sample: Sequence[Mapping[str, Any]], log: FileLog
) -> None:
    fix = f"rename it, or say which one it is under data.columns, as in {{{column.name}: {(*header, 'body')[0]}}}"
    if in_file != column.name:
        fix = f"correct data.columns, which says {{{column.name}: {in_file}}}"
    elif log.cells_are_text and _looks_like_a_row(header, sample):
        fix = "the first line seems to be a row: put a line with the names of the columns above it"
    log.whole("missing column", _not_among(in_file, tuple(header)), f'a column "{in_file}"', fix, column.name)


def _looks_like_a_row(header: Iterable[str], records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a file's first line holds values, not names: a number, a sentence, or what other rows hold there too."""
    return any(
        re.fullmatch(r"[-+.\d]+", name) or len(name.split()) > 3 or any(record[name] == name for record in records)
        for name in header
    )
