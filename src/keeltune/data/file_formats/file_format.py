"""The contract of a file format: the bytes of one file -> records, {the file's name of a column: value}, as they are.

A file beside this one is a format, and its endings are read from then on (each also with `.gz`, which is unpacked
before). From a package of one's own, in a recipe: `data: {format: my_package.my_module:Conll}`.

    class Conll(FileFormat):
        endings = (".conll",)

        def records(self, data: bytes, log: FileLog) -> Iterator[Record]:
            for line, text, sound in text_lines(data, log):
                if sound and not text.isspace():
                    yield line, {"text": text.strip()}

No column means anything here: columns are named, checked and keyed by `keeltune.data.reading`.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO, ClassVar, NamedTuple

from keeltune.data.columns import Refused
from keeltune.data.row_problems import RowProblem
from keeltune.utils.errors import Problem, shown

Record = tuple[int, dict[str, Any]]
"""A row's number, from 1 (the physical line where it begins; of a format without lines the element), and its values."""

BOM = b"\xef\xbb\xbf"


class Batch(NamedTuple):
    """Rows that are read at once.

    numbers   the rows' numbers, as in a `Record`
    records   their values, one {name: value} a row
    starts    the bytes of the file at which they begin, where its format can read them again from there alone
    """

    numbers: Sequence[int]
    records: Sequence[dict[str, Any]]
    starts: Sequence[int] | None = None


TOGETHER = 1000
"""Records that make a batch, where a format gives them one by one."""


def in_batches(records: Iterator[Record]) -> Iterator[Batch]:
    """Records as batches, in their order."""
    while group := list(islice(records, TOGETHER)):
        numbers, values = zip(*group, strict=True)
        yield Batch(numbers, values)


class FileLog:
    """What could not be read of one file, and which columns it declares."""

    def __init__(self, file: str, cells_are_text: bool = False):
        self.file = file
        self.cells_are_text = cells_are_text
        self.problems: list[Problem] = []
        self.header: list[str] | None = None
        """The columns that the file declares; None where its rows name their own."""

    def row(self, line: int, kind: str, found: str, expected: str, fix: str, field: str = "", column: int = 0) -> None:
        """Notes a fault of one row, which `data.bad_rows: skip` may leave out."""
        where = f"{self.file}:{line}:{column}" if column else f"{self.file}:{line}"
        self.problems.append(RowProblem(where, field, found, expected, fix, kind, file=self.file, line=line))

    def refused(self, line: int, field: str, value: Any, refusal: Refused, name: str | None = None) -> None:
        """Notes a value that a row cannot have in a field; `name`: what the row calls itself."""
        where, found, kind = f"{self.file}:{line}", shown(_short(value)), refusal.kind
        self.problems.append(
            RowProblem(where, field, found, refusal.expected, refusal.fix, kind, file=self.file, line=line, id=name)
        )

    def read_otherwise(self, kind: str, found: str, expected: str, fix: str) -> None:
        """Notes how a file is read which is not as its name says."""
        self.problems.append(Problem(self.file, "", found, expected, fix, kind, severity="warning"))

    def whole(self, kind: str, found: str, expected: str, fix: str, field: str = "", place: str = "") -> None:
        """Notes a fault of the whole file, at `place` (`:line` or `:line:column`) where it has one."""
        self.problems.append(Problem(self.file + place, field, found, expected, fix, kind))


def _short(value: Any) -> Any:
    """A value without the bytes of a picture or a recording."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return {**value, "bytes": f"{len(value['bytes'])} bytes"}
    return f"{len(value)} bytes" if isinstance(value, bytes) else value


class FileFormat(ABC):
    """One format. `records` is a generator: it yields what it can read, and notes in the log what it cannot."""

    endings: ClassVar[tuple[str, ...]]
    """How the names of its files end, in lower case: (".jsonl", ".json")."""

    cells_are_text: ClassVar[bool] = False
    """Whether every value is text: nothing and an empty text look the same, and a list is written as JSON."""

    magic: ClassVar[bytes] = b""
    """How its files begin, where the format is binary; empty for text in UTF-8."""

    @abstractmethod
    def records(self, data: bytes, log: FileLog) -> Iterator[Record]:
        """The rows of a file that holds `data`: not empty, not compressed, and not of another format's magic."""

    def batches(self, stream: BinaryIO, log: FileLog) -> Iterator[Batch]:
        """The same rows of an open file, some at once. A format overrides it that need not hold the whole file."""
        return in_batches(self.records(stream.read(), log))

    def records_at(self, stream: BinaryIO, starts: Sequence[int]) -> list[dict[str, Any]]:
        """The records that begin at these bytes, of a format whose batches say where theirs do."""
        raise NotImplementedError(f"{type(self).__name__} reads a file from its beginning")


def text_lines(data: bytes, log: FileLog) -> Iterator[tuple[int, str, bool]]:
    """Physical lines as (number, text, sound); a line that is not UTF-8 is noted, and comes with replacements."""
    offset = 0
    for line, raw in enumerate(io.BytesIO(data), 1):
        try:
            text, sound = raw.decode(), True
        except UnicodeDecodeError as error:
            text, sound = raw.decode(errors="replace"), False
            log.row(line, *not_utf8(error, offset))
        offset += len(raw)
        yield line, text.removeprefix("\ufeff") if line == 1 else text, sound


def not_utf8(error: UnicodeDecodeError, offset: int) -> tuple[str, str, str, str]:
    """(kind, found, expected, fix) of bytes that are no text; `offset`: where the decoded part begins in the file."""
    found = f"byte 0x{error.object[error.start]:02x} at byte offset {offset + error.start} of the file: {error.reason}"
    fix = "save the file as UTF-8: iconv -f LATIN1 -t UTF-8 FILE (or from what its encoding is)"
    return "not UTF-8", found, "text in UTF-8", fix
