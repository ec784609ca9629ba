"""A source -> rows with named columns. Every row of every file is scanned, and every problem is reported.

source -> files -> bytes -> records, by the file's names (`formats`) -> rows: our names, checked values, a key
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from keeltune.data.columns import KINDS, MEDIA, Column, Refused, read_cell, read_media
from keeltune.data.file_formats import BOM, READERS, Log, Record, bare, quoted
from keeltune.data.media import Media, Unreadable
from keeltune.utils.errors import Problem, UserError, nearest, shown

__all__ = ["KINDS", "Column", "Row", "fingerprint", "nested_share", "read", "row_key", "split_share"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of data: `fields` by our names, the file's other columns beside them under their own.

    `line` counts from 1: the physical line where the row begins; in a JSON array, in Parquet and from the hub the
    element. `key` is the row's identity (`row_key`).
    """

    fields: dict[str, Any]
    file: str
    line: int
    key: str


def row_key(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    """SHA-256 of those of the columns `names` that are there, as canonical JSON.

    It does not depend on file, order, split or further columns.
    """
    known = {n: fields[n] for n in names if n in fields}
    plain = {n: value.digest if isinstance(value, Media) else value for n, value in known.items()}
    return hashlib.sha256(_canonical(plain).encode()).hexdigest()


_canonical = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def read(
    source: str,
    *,
    resolve: Callable[[str], Path],
    columns: Sequence[Column],
    mapping: Mapping[str, str],
    labelled: bool = True,
    where: str = "",
    split: str = "train",
) -> tuple[list[Row], list[Problem]]:
    """The good rows of `source`, and a problem for everything else that is in it. Never raises for the data's sake.

    source     a file, a folder (its data files by name are one data set) or `hub:NAME[@revision][:config][/split]`
               (a split without a configuration is written `hub:NAME:/split`)
    resolve    from a path as the recipe writes it to the path to open
    mapping    our name -> the file's name, as `data.columns` has it; where both are there, the mapped one counts
    labelled   False: label columns are left out, of the rows and of their keys
    where      the place that names the source, for the problems that no file can be given for
    split      what to take from the hub where the source names no split
    """
    names = [column.name for column in columns]
    problems = [_not_a_column(name, names, where) for name in mapping if name not in names]
    wanted = [column for column in columns if labelled or not column.label]
    renamed = {column.name: mapping.get(column.name, column.name) for column in columns}
    rows: list[Row] = []
    first: Log | None = None
    parts, refused = _parts(source, resolve, split, where or source)
    for log, records in parts:
        rows += _rows(records, log, wanted, renamed)
        if first and log.header and set(log.header) != set(first.header or ()):
            fix = "give the files of a folder the same columns, or name one of the files"
            expected = f"those of {Path(first.file).name}: {quoted(first.header or ())}"
            log.whole("shards with different columns", f"columns {quoted(log.header)}", expected, fix)
        first = first or (log if log.header else None)
        problems += log.problems
    return rows, problems + refused


def split_share(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """`rows` as (train, validation), round(share · n) of them for validation, both in the order they had.

    A row's side hangs on its key and the seed, not on the order. Equal rows stay on one side, and the share is exact
    but for them. Raises `UserError` where a side would be empty.
    """
    copies = Counter(row.key for row in rows)
    left = max(1, min(round(share * len(rows)), len(rows) - 1))
    chosen: set[str] = set()
    for key in sorted(copies, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest()):
        if left <= 0:
            break
        chosen.add(key)
        left -= copies[key]
    if not 0 < share < 1 or not 0 < len(chosen) < len(copies):
        found = f"a share of {share:g} of {len(rows)} rows, {len(copies)} of them different"
        expected = "a share between 0 and 1 that leaves a row on each side"
        fix = "give another share, more rows, or a file for validation"
        place = rows[0].file if rows else ""
        raise UserError(Problem(place, "data.validation", found, expected, fix, kind="impossible share"))
    return [row for row in rows if row.key not in chosen], [row for row in rows if row.key in chosen]


def nested_share(rows: Sequence[Row], share: float) -> list[Row]:
    """A share of the rows (one at least), in the order they had; a smaller share's rows are among a larger one's."""
    ranked = sorted(rows, key=lambda row: hashlib.sha256(f"share:{row.key}".encode()).digest())
    kept = {id(row) for row in ranked[: max(1, round(share * len(rows)))]}
    return [row for row in rows if id(row) in kept]


def fingerprint(rows: Iterable[Row]) -> str:
    """SHA-256 over the rows' keys in their order: the identity of a data set as it is trained on."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.key.encode())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------ source -> files


def _parts(
    source: str, resolve: Callable[[str], Path], split: str, where: str
) -> tuple[list[tuple[Log, Iterator[Record]]], list[Problem]]:
    """Each file of `source` as (log, records), in order; or why there is none."""
    if source.startswith("hub:"):
        log = Log(source)
        return [(log, _hub_records(source, split, log))], []
    paths, problem = _paths(source, resolve(source), where)
    files = [(log := Log(str(path)), _file_records(path, log)) for path in paths]
    return files, [problem] if problem else []


_SPLITS = {"train": "train", "training": "train", "test": "test"}

_SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")


def _is_data(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(tuple(READERS))


def _paths(source: str, path: Path, where: str) -> tuple[list[Path], Problem | None]:
    """The files that `source` stands for, or why there is none."""
    endings = f"a file that ends in {' '.join(READERS)} (each also with .gz)"
    try:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and _is_data(p) and p.name[0] not in "._")
            splits = {_SPLITS.get(re.split(r"[._-]", p.name.lower())[0], "") for p in inside} - {""}
            if len(splits) > 1:  # read as one data set, the test rows would be trained on
                found = f"{path} holds several splits: {quoted(p.name for p in inside)}"
                fix = f"name the file, as in {source.rstrip('/')}/{inside[0].name}"
                return [], Problem(where, "", found, "a folder that is one data set", fix, "splits in one folder")
            found = f"no data file in the folder {path}"
            problem = Problem(where, "", found, endings, "put the data there, or correct the path", "empty folder")
            return inside, None if inside else problem
        if path.is_file():
            problem = Problem(where, "", shown(path.name), endings, "save the data as one of these", "unknown ending")
            return ([path], None) if _is_data(path) else ([], problem)
        lost = "" if path.parent.is_dir() else f"; there is no folder {path.parent} either"
        beside = [p.name for p in path.parent.iterdir()] if not lost else []
    except OSError as error:
        fix = "correct the path, or the rights to it"
        return [], Problem(where, "", f"{path}: {error.strerror}", "a path that can be read", fix, "unreadable")
    found = f"no file or folder {bare(str(path), 300)}{lost}{nearest(path.name, sorted(beside))}"
    fix = "correct the path, or put the data there"
    return [], Problem(where, "", found, "a file, a folder or hub:NAME", fix, "missing file")


_FOREIGN = (
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE"),
    (b"<!doctype", "an HTML page", "download the data again: this is a web page, perhaps an error message"),
    (b"<html", "an HTML page", "download the data again: this is a web page, perhaps an error message"),
    (b"version https://git-lfs", "a git-lfs pointer instead of the data", "run: git lfs pull"),
    (b"pk\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    (b"\x1f\x8b", "gzip data", "let the file's name end in .gz"),
    (b"par1", "Parquet data", "let the file's name end in .parquet"),
)
"""Files that are not what their ending says: how they begin (in lower case), what they are, how to fix it."""


def _foreign(data: bytes, ending: str) -> tuple[str, str] | None:
    start, head = data[:64].lstrip().lower(), data[:1000]
    if ending == ".parquet" and start.startswith(b"par1"):
        return None
    for magic, found, fix in _FOREIGN:
        if start.startswith(magic):
            return found, fix
    if ending != ".parquet" and head.count(0) > len(head) // 4:
        return "UTF-16 text or binary data (many NUL bytes)", "save it as UTF-8 text"
    return None


def _file_records(path: Path, log: Log) -> Iterator[Record]:
    name = path.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    try:
        data = path.read_bytes()
        if name.endswith(".gz"):
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        log.whole("broken gzip", str(error), "a whole gzip file", "copy or compress it again (gzip -t FILE tests it)")
    except OSError as error:
        log.whole("unreadable", str(error.strerror), "a file that can be read", "correct the rights to it")
    else:
        if not data.removeprefix(BOM).strip():
            log.whole("empty file", f"{len(data)} bytes and no row", "at least one row", "put the data there")
        elif unexpected_keys := _foreign(data, ending):
            log.whole("not what its ending says", unexpected_keys[0], f"{ending[1:]} data", unexpected_keys[1])
        else:
            yield from READERS[ending](data, log)


_HUB = re.compile(r"hub:(?P<name>[^@:]+)(?:@(?P<revision>[^:]+))?(?::(?P<config>[^/]*)(?:/(?P<split>.+))?)?")


def _hub_records(source: str, role: str, log: Log) -> Iterator[Record]:
    """A data set of the hub; the numbers of a `ClassLabel` become the names that they stand for."""
    match = _HUB.fullmatch(source)
    if match is None:
        fix = "write it so, as in hub:stanfordnlp/sst2"
        log.whole("hub name", shown(source), "hub:NAME[@revision][:config][/split]", fix)
        return
    import datasets  # costs a second, and few recipes need it

    name, config, split = match["name"], match["config"] or None, match["split"] or role
    try:
        table = datasets.load_dataset(name, config, split=split, revision=match["revision"])
    except Exception as error:  # the hub's client has no common class of errors, and each of them means: not readable
        tried = f"load_dataset({name!r}, {config!r}, split={split!r}, revision={match['revision']!r})"
        found = f"{tried} failed: {bare(f'{type(error).__name__}: {error}', 300)}"
        expected = "a data set of the hub with that configuration and split, and a network that reaches the hub"
        fix = "check name, configuration, split and network; or download the files and give their path"
        log.whole("hub", found, expected, fix)
        return
    classes = {
        column: inner.names
        for column, feature in table.features.items()
        if isinstance(inner := getattr(feature, "feature", feature), datasets.ClassLabel)
    }
    for line, record in enumerate(table, 1):
        yield line, {n: _class_name(v, classes[n]) if n in classes else v for n, v in dict(record).items()}


def _class_name(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_class_name(v, names) for v in value]
    return names[value] if value in range(len(names)) else value


# ------------------------------------------------------------------------------------------------------ records -> rows


def _rows(records: Iterator[Record], log: Log, wanted: Sequence[Column], renamed: Mapping[str, str]) -> list[Row]:
    """The sound rows of one file; `renamed` holds all columns of the task, `wanted` those that are read."""
    names = [column.name for column in wanted]
    ours = {*renamed, *renamed.values()}  # everything else in a record travels along
    plan = [(column, column.name, renamed[column.name], column.required, KINDS[column.kind]) for column in wanted]
    rows: list[Row] = []
    seen: dict[str, None] = {}  # the columns of the file, in order
    missing: list[tuple[int, Column, dict[str, Any]]] = []
    sample: list[dict[str, Any]] = []
    for line, record in records:
        if not record.keys() <= seen.keys():
            seen.update(dict.fromkeys(record))
        if len(sample) < 100:
            sample.append(record)
        fields: dict[str, Any] = {}
        sound = True
        for column, name, theirs, required, checked in plan:
            if theirs not in record:
                if required:
                    missing.append((line, column, record))
                    sound = False
                continue
            value = record[theirs]
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
                if name not in ours:
                    fields[name] = record[name]
            rows.append(Row(fields, log.file, line, row_key(fields, names)))
    for column, name, theirs, required, _ in plan:
        if sample and theirs not in seen and (required or theirs != name):
            _missing_in_file(column, theirs, list(seen), sample, log)
    for line, column, record in missing:
        theirs = renamed[column.name]
        if theirs in seen:
            found = _not_among(theirs, tuple(record))
            log.row(line, "missing field", found, f'a field "{theirs}"', "add it, or correct its name", column.name)
    if not sample and not log.problems:
        log.whole("no rows", "a header or an empty list, and no row", "at least one row", "put the data there")
    return rows


def _not_a_column(name: str, names: Sequence[str], where: str) -> Problem:
    found = f"{shown(name)}{nearest(name, names)}"
    fix = f"write our name: the file's name, as in {{{names[0]}: body}}"
    expected = f"a column of the task: {', '.join(names)}"
    return Problem(where, "data.columns", found, expected, fix, "unknown column name")


@lru_cache(maxsize=1000)  # the same columns are missing row after row
def _not_among(theirs: str, there: tuple[str, ...]) -> str:
    return f"no {bare(theirs)} among {quoted(there)}{nearest(theirs, there)}"


def _missing_in_file(
    column: Column, theirs: str, there: Sequence[str], sample: Sequence[Mapping[str, Any]], log: Log
) -> None:
    fix = f"rename it, or say which one it is under data.columns, as in {{{column.name}: {(*there, 'body')[0]}}}"
    if theirs != column.name:
        fix = f"correct data.columns, which says {{{column.name}: {theirs}}}"
    elif log.cells_are_text and _looks_like_a_row(there, sample):
        fix = "the first line seems to be a row: put a line with the names of the columns above it"
    log.whole("missing column", _not_among(theirs, tuple(there)), f'a column "{theirs}"', fix, column.name)


def _looks_like_a_row(header: Iterable[str], records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a file's first line holds values, not names: a number, a sentence, or what other rows hold there too."""
    return any(
        re.fullmatch(r"[-+.\d]+", name) or len(name.split()) > 3 or any(record[name] == name for record in records)
        for name in header
    )


def subset(rows: int, limit: int | None) -> list[int]:
    """The places of at most `limit` of so many rows, in order; always the same, torch's random state untouched."""
    drawn = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    return sorted(drawn[: limit or rows].tolist())


@contextmanager
def in_row(row: Row, column: str) -> Iterator[None]:
    """A picture or recording that cannot be read becomes a problem of its row."""
    try:
        yield
    except Unreadable as error:
        place, found = f"{row.file}:{row.line}", f"{row.fields[column]}: {error.found}"
        raise UserError(Problem(place, column, found, error.expected, error.fix, error.kind)) from error
