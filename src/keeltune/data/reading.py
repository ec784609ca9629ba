"""Records -> rows: our names, checked values, a key. Every row of every file is read, and every problem reported."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.data.file_formats.file_format import FileLog
from keeltune.data.file_reader import FileReader, RowBatch
from keeltune.data.sources import DataSource
from keeltune.utils.collection import paused_collection
from keeltune.utils.errors import Problem, name_list, nearest, shown


@paused_collection()
def read(
    source: DataSource,
    columns: Sequence[Column],
    mapping: Mapping[str, str],
    *,
    labelled: bool = True,
    or_ours: Collection[str] = (),
) -> tuple[list[Row], list[Problem]]:
    """The good rows of `source`, and a problem for everything else that is in it. Never raises for the data's sake.

    columns    the task's
    mapping    our name -> the file's name, as `data.columns` has it; where both are there, the mapped one counts
    labelled   False: label columns are left out, of the rows and of their keys
    or_ours    columns that may also have our name, where the mapped one is not there: the mapping is of other data
    """
    problems = list[Problem]()
    batches = read_batches(source, columns, mapping, problems, labelled=labelled, or_ours=or_ours)
    return [row for batch in batches for row in batch.rows()], problems


def read_batches(
    source: DataSource,
    columns: Sequence[Column],
    mapping: Mapping[str, str],
    problems: list[Problem],
    *,
    labelled: bool = True,
    or_ours: Collection[str] = (),
) -> Iterator[RowBatch]:
    """The same rows, some at once; their problems are added to `problems`, all of them by the end."""
    names = [column.name for column in columns]
    problems += [_not_a_column(name, names, source.where) for name in mapping if name not in names]
    wanted = [column for column in columns if labelled or not column.label]
    renamed = {column.name: mapping.get(column.name, column.name) for column in columns}
    first: FileLog | None = None
    files, refused = source.parts()
    for file in files:
        log, reader = file.log, FileReader(file, wanted, renamed, or_ours)
        yield from map(reader.read, file.batches)
        reader.finish()
        if first and log.header and set(log.header) != set(first.header or ()):
            fix = "give the files of a folder the same columns, or name one of the files"
            expected = f"those of {Path(first.file).name}: {name_list(first.header or ())}"
            log.whole("shards with different columns", f"columns {name_list(log.header)}", expected, fix)
        first = first or (log if log.header else None)
        problems += log.problems
    problems += refused


def _not_a_column(name: str, names: Sequence[str], where: str) -> Problem:
    found = f"{shown(name)}{nearest(name, names)}"
    fix = f"write our name: the file's name, as in {{{names[0]}: body}}"
    expected = f"a column of the task: {', '.join(names)}"
    return Problem(where, "data.columns", found, expected, fix, "unknown column name")
