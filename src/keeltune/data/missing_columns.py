"""What is said of columns that a file lacks, and of fields that its rows lack: which of the others may be meant."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from keeltune.data.column_hints import likely
from keeltune.data.columns import Column
from keeltune.data.file_formats.file_format import FileLog
from keeltune.utils.errors import name_list, nearest, visible


def report_missing(
    missing: Sequence[tuple[int, Column, tuple[str, ...]]],
    places: Sequence[tuple[Column, str]],
    header: Sequence[str],
    sample: Sequence[dict[str, Any]],
    log: FileLog,
) -> None:
    """Notes the columns that a file lacks, and the fields that some of its rows lack.

    missing   (row's number, column, the names that the row has) for each value that is not there
    places    each column that is read, and what the file calls it
    header    the columns of the file's rows; `sample`: the first of them
    """
    in_files = {column.name: in_file for column, in_file in places}
    for column, in_file in places:
        if sample and in_file not in header and (column.required or in_file != column.name):
            taken = {name for other, name in places if other is not column and name in header}
            _missing_in_file(column, in_file, header, sample, log, taken)
    for line, column, names in missing:
        in_file = in_files[column.name]
        if in_file in header:
            found = _not_among(in_file, names)
            log.row(line, "missing field", found, f'a field "{in_file}"', "add it, or correct its name", column.name)
    if not sample and all(problem.severity == "warning" for problem in log.problems):
        log.whole("no rows", "a header or an empty list, and no row", "at least one row", "put the data there")


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
