"""One file's records to rows: each column found under its name in the file, its values checked, the rows keyed.

Most files have the same sound columns in every row, so that many rows are looked at together, column by column. Where
something is wrong with one of them, or it lacks a column, the same rows are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import itemgetter
from typing import Any

from keeltune.data.column_readers import ColumnReader, read_extras
from keeltune.data.columns import Column, Refused, extra
from keeltune.data.dataset import Row, content_key
from keeltune.data.file_formats.file_format import Batch, FileLog
from keeltune.data.missing_columns import report_missing
from keeltune.data.row_problems import own_name
from keeltune.data.sources import DataFile
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.names import plain_name

_ABSENT = object()


@dataclass(frozen=True, eq=False)
class Layout:
    """What is read of a file's records: the task's columns, with their names in the file, and those that travel along;
    `dotted`: names of what lies inside a value."""

    file: DataFile
    columns: Sequence[tuple[Column, str, ColumnReader]]
    extras: Sequence[str]
    dotted: Sequence[str]

    def read_at(self, numbers: Sequence[int], starts: Sequence[int]) -> list[Row]:
        """Rows that were read before, from the same places of the file. UserError where it is another file by now."""
        log = self.file.log
        try:
            batch = Batch(numbers, _opened(self.file.records_at(starts), self.dotted), starts)
            found = together(self, batch) or one_by_one(self, batch, FileLog(log.file, log.cells_are_text), [])
            if list(found.numbers) == list(numbers):
                return found.rows()
        except (ValueError, TypeError, OSError):  # no JSON any more, or no object
            pass
        said = "a file that changes while it is read", "the same file from beginning to end", "start again"
        raise UserError(Problem(log.file, "", *said, "file changed"))


@dataclass
class RowBatch:
    """Sound rows of one file that were read together.

    numbers, starts   as in the format's `Batch`
    columns           the values of the task's columns, one a row; `extras`: of those that travel along
    """

    layout: Layout
    numbers: Sequence[int]
    starts: Sequence[int] | None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    extras: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    made: list[Row] | None = None

    def values(self, name: str) -> Sequence[Any]:
        """The values of one of the task's columns, None where a row has none."""
        if self.made is not None:
            return [row.fields.get(name) for row in self.made]
        return self.columns[name] if name in self.columns else [None] * len(self.numbers)

    def rows(self) -> list[Row]:
        """The rows themselves."""
        if self.made is None:
            names = tuple(self.columns)
            fields = [dict(zip(names, values, strict=True)) for values in zip(*self.columns.values(), strict=True)]
            keys = list(map(content_key, fields))
            for name, values in self.extras.items():
                for of_row, value in zip(fields, values, strict=True):
                    if value is not _ABSENT:
                        of_row[name] = value
            self.made = list(map(Row, fields, repeat(self.layout.file.log.file), self.numbers, keys))
        return self.made

    def without(self, numbers: Collection[int]) -> RowBatch:
        """The batch without the rows of these numbers."""
        if not numbers:
            return self
        kept = [i for i, number in enumerate(self.numbers) if number not in numbers]
        rows, starts = self.rows(), self.starts
        return RowBatch(
            self.layout,
            [self.numbers[i] for i in kept],
            None if starts is None else [starts[i] for i in kept],
            made=[rows[i] for i in kept],
        )


def together(layout: Layout, batch: Batch) -> RowBatch | None:
    """The rows of a batch, if all have the same of the task's columns, and nothing is wrong with any."""
    empty = (None, "") if layout.file.log.cells_are_text else (None,)
    columns: dict[str, Sequence[Any]] = {}
    extras: dict[str, Sequence[Any]] = {}
    try:
        for column, in_file, reader in layout.columns:
            values = list(map(itemgetter(in_file), batch.records))
            if not column.required and any(nothing in values for nothing in empty):
                return None
            columns[column.name] = reader.all(values)
        for name in layout.extras:
            values = [record.get(name, _ABSENT) for record in batch.records]
            extras[name] = read_extras(values)
    except (KeyError, Refused):
        return None
    return RowBatch(layout, batch.numbers, batch.starts, columns, extras) if columns else None


def one_by_one(layout: Layout, batch: Batch, log: FileLog, missing: list[Missing]) -> RowBatch:
    """The sound rows of a batch; what is wrong with the others goes to `log`, and what they lack to `missing`."""
    empty = (None, "") if log.cells_are_text else (None,)
    kept, rows = list[int](), list[Row]()
    for i, (number, record) in enumerate(zip(batch.numbers, batch.records, strict=True)):
        fields: dict[str, Any] = {}
        sound = True
        for column, in_file, reader in layout.columns:
            value = record.get(in_file, _ABSENT)
            if column.required:
                if value is _ABSENT:
                    missing.append((number, column, tuple(record)))
                    sound = False
                    continue
            elif value is _ABSENT or value in empty:
                continue
            try:
                fields[column.name] = reader.one(value)
            except Refused as refused:
                log.refused(number, column.name, value, refused, own_name(record))
                sound = False
        try:
            key = content_key(fields) if sound else ""
        except ValueError:
            _note_unwritable(fields, number, log)
            continue
        for name in layout.extras:
            if name in record:
                try:
                    fields[name] = extra(record[name])
                except Refused as refused:
                    log.refused(number, name, record[name], refused, own_name(record))
                    sound = False
        if sound:
            kept.append(i)
            rows.append(Row(fields, log.file, number, key))
    starts = None if batch.starts is None else [batch.starts[i] for i in kept]
    return RowBatch(layout, [row.line for row in rows], starts, made=rows)


Missing = tuple[int, Column, tuple[str, ...]]
"""A row's number, a column that it lacks, and the names that it has."""


class FileReader:
    """Reads the batches of one file, in their order; its problems go to the file's log.

    renamed   all columns of the task, with what the file should call them; `wanted`: those that are read
    or_ours   those that it may also call as we do, where it has no column of the other name
    """

    def __init__(
        self, file: DataFile, wanted: Sequence[Column], renamed: Mapping[str, str], or_ours: Collection[str] = ()
    ):
        self.file, self.wanted, self.renamed, self.or_ours = file, wanted, renamed, or_ours
        self.readers = {column.name: ColumnReader(column, file.log) for column in wanted}
        self.dotted = [name for name in renamed.values() if "." in name]
        self.header: dict[str, Any] = {}  # the columns that its rows have, in order
        self.missing, self.sample = list[Missing](), list[dict[str, Any]]()
        self.layout = self._layout()

    def read(self, batch: Batch) -> RowBatch:
        """The sound rows of a batch."""
        batch = batch._replace(records=_opened(batch.records, self.dotted))
        names = dict.fromkeys(chain.from_iterable(batch.records))
        if not names.keys() <= self.header.keys():
            self.header |= names
            self.layout = self._layout()
        self.sample += batch.records[: 100 - len(self.sample)]
        return together(self.layout, batch) or one_by_one(self.layout, batch, self.file.log, self.missing)

    def finish(self) -> None:
        """Notes what the file lacks, now that all of it is read."""
        spelt = _names_in_file(self.renamed, self.header, self.or_ours)
        places = [(column, spelt[column.name]) for column in self.wanted]
        report_missing(self.missing, places, list(self.header), self.sample, self.file.log)

    def _layout(self) -> Layout:
        """What the columns of the rows so far say; a required one is looked for in every row."""
        spelt = _names_in_file(self.renamed, self.header, self.or_ours)
        known = {*self.renamed, *self.renamed.values(), *spelt.values()}  # everything else in a record travels along
        columns = [
            (column, spelt[column.name], self.readers[column.name])
            for column in self.wanted
            if column.required or spelt[column.name] in self.header
        ]
        extras = [name for name in self.header if name not in known]
        return Layout(self.file, columns, extras, self.dotted)


def _note_unwritable(fields: Mapping[str, Any], number: int, log: FileLog) -> None:
    """Notes the columns of a row that hold what cannot be written, in a format that lets it pass."""
    for name, value in fields.items():
        try:
            extra(value)
        except Refused as refused:
            log.refused(number, name, value, refused, own_name(fields))


def _opened(records: Sequence[dict[str, Any]], dotted: Iterable[str]) -> Sequence[dict[str, Any]]:
    """Records in which a dotted name, as `translation.en`, is what lies inside: {"translation": {"en": "…"}}."""
    steps_of = [(name, name.split(".")) for name in dotted]
    return [_with_inner(record, steps_of) for record in records] if steps_of else records


def _with_inner(record: dict[str, Any], steps_of: Sequence[tuple[str, Sequence[str]]]) -> dict[str, Any]:
    for name, steps in steps_of:
        value: Any = record
        for step in steps if name not in record else ():
            value = value.get(step, _ABSENT) if isinstance(value, dict) else _ABSENT
        if value is not record and value is not _ABSENT:
            record = {**record, name: value}
    return record


def _names_in_file(renamed: Mapping[str, str], header: Collection[str], or_ours: Collection[str]) -> dict[str, str]:
    """The columns as the file spells them: with a blank after the comma, another Unicode form, a byte order mark."""
    plain = {plain_name(name): name for name in header}
    ours = {name for name in or_ours if name in header and name not in renamed.values()}  # no other column's
    return {
        name: in_file if in_file in header else plain.get(plain_name(in_file), name if name in ours else in_file)
        for name, in_file in renamed.items()
    }
