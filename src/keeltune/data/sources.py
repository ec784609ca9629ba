"""What a recipe names as data -> its files -> their records: paths, folders, compression, and which format reads what.

source -> paths -> bytes -> records, by the file's names (`file_formats`, `hub`) -> rows (`reading`)
"""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from keeltune.data import recordings
from keeltune.data.file_formats.file_format import BOM, Batch, FileFormat, FileLog, in_batches
from keeltune.data.hub import hub_records
from keeltune.data.memory import records_of
from keeltune.data.saved_datasets import SPLITS, is_saved, saved_files
from keeltune.utils import registry
from keeltune.utils.errors import Problem, UserError, name_list, nearest, shown, visible
from keeltune.utils.files import open_regular


@dataclass(frozen=True)
class DataFile:
    """One file of a source: its log, and its rows as they come. Where those say at which bytes they begin, they can be
    read again from `path`."""

    log: FileLog
    batches: Iterator[Batch]
    path: Path | None = None
    file_format: FileFormat | None = None

    def records_at(self, starts: Sequence[int]) -> list[dict[str, Any]]:
        """The records that begin at these bytes."""
        assert self.path is not None and self.file_format is not None
        with open_regular(self.path) as stream:
            return self.file_format.records_at(stream, starts)

    def bytes_between(self, first: int, last: int) -> bytes:
        """What the file holds from one line's beginning to another line's end."""
        assert self.path is not None
        with open_regular(self.path) as stream:
            stream.seek(first)
            return stream.read(last - first) + stream.readline()


@dataclass(frozen=True)
class DataSource:
    """What is read as one data set.

    name         a file, a folder (its data files by name are one data set, or `datasets` saved it, or its recordings
                 have their texts beside them) or `hub:NAME[@revision][:config][/split]`
                 (a split without a configuration is written `hub:NAME:/split`)
    resolve      from a path as the recipe writes it to the path to open
    where        the place that names the source, for the problems that no file can be given for
    split        what to take of the hub, or of a saved data set, where the source names no split
    file_format  the format of its files, as `data.format` names it; None: by each file's ending
    rows         what is in memory, as `memory` has it, in place of all that; the name is what messages call it
    """

    name: str
    resolve: Callable[[str], Path] = Path
    where: str = ""
    split: str = "train"
    file_format: str | None = None
    rows: Any = None

    def parts(self) -> tuple[list[DataFile], list[Problem]]:
        """Its files, in order; or why there is none."""
        if self.rows is not None:
            records = enumerate(records_of(self.rows, self.name), 1)
            return [DataFile(FileLog(self.name), in_batches(records))], []
        if self.name.startswith("hub:"):
            log = FileLog(self.name)
            return [DataFile(log, in_batches(hub_records(self.name, self.split, log)))], []
        if (kept := self._recordings()) is not None:
            log = kept.log()
            return [DataFile(log, in_batches(kept.records(log)))], []
        located, problem = self._located()
        files = []
        for path, file_format in located:
            log = FileLog(str(path), file_format.cells_are_text)
            files.append(DataFile(log, _file_batches(path, file_format, log), path, file_format))
        return files, [problem] if problem else []

    def files(self) -> list[Path]:
        """The files that are read, in order; none of the hub's, nor where `parts` says why there is none."""
        if self.rows is not None or self.name.startswith("hub:"):
            return []
        kept = self._recordings()
        return kept.files() if kept is not None else [path for path, _ in self._located()[0]]

    def _recordings(self) -> recordings.Recordings | None:
        """Recordings with their texts beside them, where no file says in a format of ours which these are."""
        try:
            kept = recordings.found(self.resolve(self.name)) if self.file_format is None else None
        except OSError:  # which is said where files are looked for
            return None
        return kept if kept is not None and (kept.listed or not self._located()[0]) else None

    def _located(self) -> tuple[list[tuple[Path, FileFormat]], Problem | None]:
        """Each file with what reads it, or why there is none."""
        chosen: FileFormat | None = None
        if self.file_format is not None:
            chosen = registry.find("file_formats", self.file_format)()
        formats = formats_by_ending() if chosen is None else dict.fromkeys(chosen.endings, chosen)
        paths, problem = _paths(self, formats, any_file=chosen is not None)
        return [(path, chosen or formats[_ending(path, formats)]) for path in paths], problem


def formats_by_ending() -> dict[str, FileFormat]:
    """Each ending that is read, with its format: text before binary, and first where values keep their types."""
    formats = [registry.find("file_formats", name)() for name in registry.names("file_formats")]
    formats.sort(key=lambda file_format: (bool(file_format.magic), file_format.cells_are_text))
    return {ending: file_format for file_format in formats for ending in file_format.endings}


def _ending(path: Path, endings: Iterable[str]) -> str:
    """The ending of those given that a file's name has, `.gz` aside; empty where it has none of them."""
    name = path.name.lower().removesuffix(".gz")
    return next((ending for ending in endings if name.endswith(ending)), "")


def _paths(
    source: DataSource, formats: Mapping[str, FileFormat], *, any_file: bool
) -> tuple[list[Path], Problem | None]:
    """The files that a source stands for, or why there is none; `any_file`: a file may have any ending."""
    path, where = source.resolve(source.name), source.where or source.name
    endings = f"a file that ends in {' '.join(formats)} (each also with .gz)"
    try:
        if path.is_dir() and is_saved(path):
            return saved_files(path, source.split, where), None
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and _ending(p, formats) and p.name[0] not in "._")
            return _one_data_set(source, path, inside, endings)
        if path.is_file():
            problem = Problem(where, "", shown(path.name), endings, "save the data as one of these", "unknown ending")
            return ([path], None) if any_file or _ending(path, formats) else ([], problem)
        if path.exists():
            open_regular(path).close()  # which says what it is
        no_folder = "" if path.parent.is_dir() else f"; there is no folder {path.parent} either"
        neighbours = [p.name for p in path.parent.iterdir()] if not no_folder else []
    except UserError as error:
        return [], error.problems[0]
    except OSError as error:
        fix = "correct the path, or the rights to it"
        return [], Problem(where, "", f"{path}: {error.strerror}", "a path that can be read", fix, "unreadable")
    found = f"no file or folder {visible(str(path), 300)}{no_folder}{nearest(path.name, sorted(neighbours))}"
    fix = "correct the path, or put the data there"
    return [], Problem(where, "", found, "a file, a folder or hub:NAME", fix, "missing file")


def _one_data_set(
    source: DataSource, folder: Path, files: list[Path], endings: str
) -> tuple[list[Path], Problem | None]:
    """The data files of a folder, of several splits those of the wanted one; none where that cannot be told: the test
    rows would be trained on."""
    where = source.where or source.name
    split_of = {path: SPLITS.get(re.split(r"[._-]", path.name.lower())[0], "") for path in files}
    wanted = [path for path, split in split_of.items() if split == source.split]
    if len({*split_of.values()} - {""}) > 1 and wanted and all(split_of.values()):
        return wanted, None
    if len({*split_of.values()} - {""}) > 1:
        found = f"{folder} holds several splits: {name_list(p.name for p in files)}"
        fix = f"name the file, as in {source.name.rstrip('/')}/{files[0].name}"
        return [], Problem(where, "", found, "a folder that is one data set", fix, "splits in one folder")
    if files:
        return files, None
    inner = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] not in "._"]
    fix = f"name the folder inside: {source.name.rstrip('/')}/{inner[0]}" if inner else "put the data there"
    return [], Problem(where, "", f"no data file in the folder {folder}", endings, fix, "empty folder")


_FOREIGN = (
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE"),
    (b"<!doctype", "an HTML page", "download the data again: this is a web page, perhaps an error message"),
    (b"<html", "an HTML page", "download the data again: this is a web page, perhaps an error message"),
    (b"version https://git-lfs", "a git-lfs pointer instead of the data", "run: git lfs pull"),
    (b"pk\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    (b"\x1f\x8b", "gzip data", "let the file's name end in .gz"),
)
"""Files that are not what their ending says: how they begin (in lower case), what they are, how to fix it."""


HEAD = 1000
"""Bytes that show what a file is."""


def _other_content(head: bytes, file_format: FileFormat) -> tuple[str, str] | None:
    """What a file that begins so holds that is not of its format, and how to fix it."""
    start = head[:64].lstrip().lower()
    if file_format.magic and start.startswith(file_format.magic.lower()):
        return None
    binary = [
        (other.magic.lower(), f"{type(other).__name__} data", f"let the file's name end in {ending}")
        for ending, other in formats_by_ending().items()
        if other.magic
    ]
    for magic, found, fix in [*_FOREIGN, *binary]:
        if start.startswith(magic):
            return found, fix
    if not file_format.magic and head.count(0) > len(head) // 4:
        return "UTF-16 text or binary data (many NUL bytes)", "save it as UTF-8 text"
    return None


RATIO, SMALL = 100, 2**27
"""Bytes from one byte of a gzip file beyond which it is refused, once they are more than `SMALL`: what people compress
comes to a tenth or a thirtieth, and gzip's limit is 1032."""


class _Bomb(Exception):
    pass


def _unpacked(stream: BinaryIO) -> bytes:
    """What a gzip file holds. Raises `_Bomb` as soon as it is too much for its size."""
    size, pieces, length = os.fstat(stream.fileno()).st_size, list[bytes](), 0
    with gzip.GzipFile(fileobj=stream) as unpacked:
        while piece := unpacked.read(2**24):
            pieces.append(piece)
            length += len(piece)
            if length > max(SMALL, RATIO * size):
                raise _Bomb(f"more than {length} bytes in a gzip file of {size}")
    return b"".join(pieces)


def _file_batches(path: Path, file_format: FileFormat, log: FileLog) -> Iterator[Batch]:
    kind = _ending(path, file_format.endings)[1:] or type(file_format).__name__
    try:
        with open_regular(path) as stream:
            if path.name.lower().endswith(".gz"):
                for batch in _batches(io.BytesIO(_unpacked(stream)), file_format, kind, log):
                    yield batch._replace(starts=None)
            else:
                yield from _batches(stream, file_format, kind, log)
    except _Bomb as bomb:
        fix = "unpack it with gunzip, if it is what it should be"
        log.whole("gzip bomb", str(bomb), f"data of at most {RATIO} times the size of its file", fix)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        log.whole("broken gzip", str(error), "a whole gzip file", "copy or compress it again (gzip -t FILE tests it)")
    except OSError as error:
        log.whole("unreadable", str(error.strerror), "a file that can be read", "correct the rights to it")


def _batches(stream: BinaryIO, file_format: FileFormat, kind: str, log: FileLog) -> Iterator[Batch]:
    """The rows of an unpacked file, if it has any and is `kind` data, as it should be."""
    head = stream.read(HEAD)
    stream.seek(0)
    if not head[:64].removeprefix(BOM).strip() and not stream.read().removeprefix(BOM).strip():
        log.whole("empty file", f"{stream.tell()} bytes and no row", "at least one row", "put the data there")
        return
    if other := _other_content(head, file_format):
        log.whole("not what its ending says", other[0], f"{kind} data", other[1])
        return
    stream.seek(0)
    first = b"" if file_format.magic else stream.readline()
    stream.seek(0)
    if not first.endswith(b"\n") and first.count(b"\r") > 1:  # lines of old Macs
        lines = io.BytesIO(first.replace(b"\r", b"\n"))
        yield from (batch._replace(starts=None) for batch in file_format.batches(lines, log))
    else:
        yield from file_format.batches(stream, log)
