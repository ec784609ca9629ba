"""Data files: broken ones, with the line at fault and what the message must say of it, and unusual ones that are well.

A case is (kind, name, file name, bytes, line of the bad row or None for the whole file, needles in the message).
"""

from __future__ import annotations

import gzip
from typing import NamedTuple

import pyarrow as pa

from tests.bad_inputs.case import Case
from tests.bad_inputs.rows import parquet


class Bad(NamedTuple):
    kind: str
    name: str
    file: str
    data: bytes
    line: int | None
    needles: tuple[str, ...]


GOOD = b'{"text": "fine film", "label": "pos"}\n'
OTHER = b'{"text": "dull plot", "label": "neg"}\n'


def lines(bad: bytes) -> bytes:
    """A JSON lines file whose second of three lines is `bad`."""
    return GOOD + bad + b"\n" + OTHER


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


_TABLE = parquet({"text": ["fine film"] * 50, "label": ["pos"] * 50}, write_page_checksum=True, compression="none")
_GZ = gzip.compress(GOOD * 200)

BAD = [
    # what is in a file
    Bad(
        "D1",
        "broken JSON",
        "a.jsonl",
        lines(b'{"text": "x", "label" "pos"}'),
        2,
        ("a.jsonl:2:23", "Expecting ':' delimiter"),
    ),
    Bad("D1", "single quotes", "a.jsonl", lines(b"{'text': 'x'}"), 2, ("a.jsonl:2:2", "double quotes")),
    Bad(
        "D1",
        "two rows in a line",
        "a.jsonl",
        lines(GOOD.strip() + OTHER.strip()),
        2,
        ("Extra data", "one JSON object a line"),
    ),
    Bad("D2", "last line cut", "a.jsonl", GOOD + b'{"text": "fi', 2, ("ends within this row", "Unterminated")),
    Bad("D2", "last line cut after a comma", "a.jsonl", GOOD + b'{"text": "fi",', 2, ("ends within this row",)),
    Bad(
        "D3",
        "invalid UTF-8",
        "a.jsonl",
        lines(b'{"text": "caf\xe9!", "label": "pos"}'),
        2,
        ("0xe9", f"offset {len(GOOD) + 13} "),
    ),
    Bad(
        "D3", "invalid UTF-8 after a BOM", "a.jsonl", b"\xef\xbb\xbf" + lines(b"\xff"), 2, (f"offset {len(GOOD) + 3} ",)
    ),
    Bad("D3", "UTF-16 with BOM", "a.jsonl", GOOD.decode().encode("utf-16"), None, ("UTF-16", "iconv")),
    Bad("D3", "UTF-16 without BOM", "a.csv", "text,label\nx,pos\n".encode("utf-16-le"), None, ("UTF-16", "UTF-8")),
    Bad(
        "D4",
        "raw NUL",
        "a.jsonl",
        lines(b'{"text": "a\0b", "label": "pos"}'),
        2,
        ("Invalid control character", "\\x00"),
    ),
    Bad("D4", "written NUL", "a.jsonl", lines(rb'{"text": "a\u0000b", "label": "pos"}'), 2, ("NUL", "a\\x00b", "text")),
    Bad("D4", "lone surrogate", "a.jsonl", lines(rb'{"text": "a\ud83d", "label": "pos"}'), 2, ("surrogate", "\\ud83d")),
    Bad("D1", "NaN", "a.jsonl", lines(b'{"text": "x", "label": NaN}'), 2, ("NaN", "null")),
    Bad(
        "D1",
        "Infinity in an extra column",
        "a.jsonl",
        lines(b'{"text": "x", "label": "pos", "w": -Infinity}'),
        2,
        ("-Inf",),
    ),
    Bad(
        "D8",
        "key given twice",
        "a.jsonl",
        lines(b'{"text": "x", "text": "y", "label": "pos"}'),
        2,
        ("more than once", '"text"'),
    ),
    Bad("D7", "row is a list", "a.jsonl", lines(b'["x", "pos"]'), 2, ("an object", "(a list)")),
    Bad("D7", "rows are lists", "a.jsonl", b'["x", "pos"]\n["y", "neg"]\n', 1, ("an object", "(a list)")),
    Bad("D7", "row is null", "a.jsonl", lines(b"null"), 2, ("an object", "nothing")),
    Bad("D1", "nested without end", "a.jsonl", lines(b"[" * 100_000), 2, ("100 deep",)),
    Bad("D1", "endless number", "a.jsonl", lines(b'{"text": "x", "label": ' + b"9" * 5000 + b"}"), 2, ("5000 digits",)),
    Bad(
        "D1",
        "pretty-printed",
        "a.jsonl",
        b'{\n "text": "x",\n "label": "pos"\n}\n',
        None,
        ("over several lines", "jq -c"),
    ),
    Bad("D2", "array cut", "a.json", b'[{"text": "x", "label": "pos"},\n{"text": ', None, (":2:10", "element 2")),
    Bad("D1", "array without comma", "a.json", b'[{"text": "x", "label": "a"}\n{}]', None, (":2:1", "','")),
    Bad("D1", "text after an array", "a.json", b'[{"text": "x", "label": "a"}] etc', None, ("Extra data", ":1:")),
    Bad(
        "D7",
        "element not an object",
        "a.json",
        b'[{"text": "x", "label": "pos"}, 3]',
        2,
        ("an object", "3 (a whole number)"),
    ),
    Bad(
        "D8",
        "key twice in an array",
        "a.json",
        b'[{"text": "x", "label": "a"}, {"a": 1, "a": 2}]',
        2,
        ("more than once",),
    ),
    Bad("D3", "array not UTF-8", "a.json", b'[{"text": "caf\xe9", "label": "a"}]', None, ("0xe9", "offset 14 ")),
    # whole files
    Bad("D9", "empty file", "a.jsonl", b"", None, ("0 bytes", "at least one row")),
    Bad("D9", "blank file", "a.csv", b"\n \n", None, ("no row",)),
    Bad("D9", "empty array", "a.json", b"[]", None, ("no row",)),
    Bad("D9", "header only", "a.csv", b"text,label\n", None, ("no row",)),
    Bad("D9", "Parquet without rows", "a.parquet", parquet({"text": pa.array([], pa.string())}), None, ("no row",)),
    Bad("D13", "HTML as JSON lines", "a.jsonl", b"<!DOCTYPE html><p>404</p>", None, ("HTML", "download")),
    Bad("D13", "HTML as Parquet", "a.parquet", b"\n<html><p>404</p>", None, ("HTML", "download")),
    Bad("D13", "git-lfs pointer", "a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", None, ("git lfs pull",)),
    Bad("D13", "spreadsheet as CSV", "a.csv", b"PK\x03\x04etc", None, ("spreadsheet", "as CSV")),
    Bad("D13", "Parquet as CSV", "a.csv", _TABLE, None, ("Parquet data", ".parquet")),
    Bad("D18", "gzip without its ending", "a.jsonl", _GZ, None, ("gzip data", ".gz")),
    Bad("D18", "gzip cut", "a.jsonl.gz", _GZ[:-20], None, ("ended before", "gzip -t")),
    Bad("D18", "gzip with a bad CRC", "a.jsonl.gz", flipped(_GZ, len(_GZ) - 6), None, ("CRC", "gzip -t")),
    Bad("D18", "gzip that is none", "a.jsonl.gz", GOOD, None, ("Not a gzipped file",)),
    Bad("D13", "Parquet cut", "a.parquet", _TABLE[:-30], None, ("Parquet magic bytes", "whole Parquet file")),
    Bad("D13", "Parquet with a flipped page", "a.parquet", flipped(_TABLE, 60), None, ("Parquet", "again")),
    # CSV and TSV
    Bad(
        "D10",
        "extra column",
        "a.csv",
        b"text,label\nx,pos\ngood, really,pos\ny,neg\n",
        3,
        ("3 columns", "quotation marks"),
    ),
    Bad("D10", "missing column", "a.csv", b"text,label\nx,pos\nonly text\ny,neg\n", 3, ("1 columns", "2 columns: ")),
    Bad("D2", "last record cut", "a.csv", b"text,label\nx,pos\ny", 3, ("1 columns", "cut")),
    Bad(
        "D11", "unclosed quote", "a.csv", b'text,label\nx,pos\n"open,neg\ny,pos\nz,neg\n', 3, ("a.csv:3", "not closed")
    ),
    Bad(
        "D11",
        "unclosed quote before another",
        "a.csv",
        b'text,label\n"open,neg\n"y",pos\nz,neg\n',
        2,
        ("a.csv:2", '""'),
    ),
    Bad("D3", "CSV not UTF-8", "a.csv", b"text,label\nx,pos\ncaf\xe9,neg\n", 3, ("0xe9", "offset 20 ", "iconv")),
    Bad("D4", "NUL in CSV", "a.csv", b"text,label\nx\0y,pos\nz,neg\n", 2, ("NUL",)),
    Bad("D12", "semicolons", "a.csv", b"text;label\nx;pos;more\n", None, ("semicolons", "commas")),
    Bad("D12", "tabs in a CSV", "a.csv", b"text\tlabel\nx\tpos\ty\n", None, ("tabs", ".tsv")),
    Bad("D12", "commas in a TSV", "a.tsv", b"text,label\nx,pos,y\n", None, ("commas", ".csv")),
    Bad("D12", "column twice", "a.csv", b"text,label,text\nx,pos,y\n", None, ("more than once", '"text"', "a.csv:1")),
    Bad(
        "D12",
        "no header",
        "a.csv",
        b"a fine little film,pos\ndull,neg\nfine,pos\n",
        None,
        ("first line seems to be a row",),
    ),
    Bad("D12", "no header, numbers", "a.csv", b"good,1\nbad,0\n", None, ("first line seems to be a row",)),
    Bad("D10", "TSV missing column", "a.tsv", b'text\tlabel\nx\tpos\nsays "no\ny\tneg\n', 3, ("1 columns",)),
    # columns
    Bad(
        "D5",
        "column misspelt",
        "a.jsonl",
        b'{"txt": "x", "label": "pos"}\n' * 3,
        None,
        ('did you mean "txt"', "{text: txt}"),
    ),
    Bad("D5", "CSV column misspelt", "a.csv", b"text,labels\nx,pos\n", None, ('"labels"', "data.columns")),
    Bad(
        "D5",
        "field misspelt in one row",
        "a.jsonl",
        lines(b'{"tekst": "x", "label": "pos"}'),
        2,
        ('did you mean "tekst"', '"text"'),
    ),
    Bad("D5", "field missing in one row", "a.jsonl", lines(b'{"text": "x"}'), 2, ('no "label" among "text"',)),
    Bad("D5", "rows without a field", "a.jsonl", b"{}\n{}\n", None, ("among none", '"text"')),
    # texts
    Bad("D6", "null text", "a.jsonl", lines(b'{"text": null, "label": "pos"}'), 2, ("nothing", "text")),
    Bad(
        "D6",
        "number as text",
        "a.jsonl",
        lines(b'{"text": 12, "label": "pos"}'),
        2,
        ("12 (a whole number)", "quotation marks"),
    ),
    Bad("D6", "list as text", "a.jsonl", lines(b'{"text": ["x"], "label": "pos"}'), 2, ("(a list)", "text")),
    Bad("D6", "empty text", "a.jsonl", lines(b'{"text": "", "label": "pos"}'), 2, ("blank",)),
    Bad("D6", "white text", "a.jsonl", lines(rb'{"text": " \t\u3000", "label": "pos"}'), 2, ("blank",)),
    Bad("D6", "empty CSV cell", "a.csv", b"text,label\n,pos\nx,neg\n", 2, ("blank", "text")),
    Bad(
        "D6",
        "empty optional text",
        "a.jsonl",
        lines(b'{"text": "x", "text_pair": "", "label": "pos"}'),
        2,
        ("text_pair",),
    ),
    Bad("D6", "bytes in Parquet", "a.parquet", parquet({"text": [b"x"], "label": ["a"]}), 1, ("bytes", "text")),
    # labels
    Bad("L4", "true as label", "a.jsonl", lines(b'{"text": "x", "label": true}'), 2, ('quote it: "true"',)),
    Bad(
        "L4",
        "fraction as label",
        "a.jsonl",
        lines(b'{"text": "x", "label": 0.5}'),
        2,
        ("0.5 (a number)", "whole number"),
    ),
    Bad("L4", "null label", "a.jsonl", lines(b'{"text": "x", "label": null}'), 2, ("nothing", "data.unlabeled")),
    Bad("L4", "blank label", "a.csv", b"text,label\nx, \ny,neg\n", 2, ("blank", "label")),
    Bad("L3", "negative label", "a.jsonl", lines(b'{"text": "x", "label": -1}'), 2, ("-1", "from 0")),
    Bad("L3", "negative label in CSV", "a.csv", b"text,label\nx,-1\ny,1\n", 2, ("-1", "from 0")),
    Bad("L7", "list as label", "a.jsonl", lines(b'{"text": "x", "label": ["pos"]}'), 2, ("multi_label: true",)),
    Bad(
        "L4",
        "mapping as label",
        "a.jsonl",
        lines(b'{"text": "x", "label": {"is": "pos"}}'),
        2,
        ("a mapping", "whole number"),
    ),
    Bad(
        "L4",
        "NaN label in Parquet",
        "a.parquet",
        parquet({"text": ["x", "y"], "label": [1.0, float("nan")]}),
        2,
        ("nan",),
    ),
]

MANY_LABELS = [
    Bad(
        "L7",
        "one label for several",
        "a.jsonl",
        lines(b'{"text": "x", "label": "pos"}'),
        2,
        ('["news"]', "multi_label: false"),
    ),
    Bad("L7", "label twice", "a.jsonl", lines(b'{"text": "x", "label": ["a", "b", "a"]}'), 2, ("once",)),
    Bad("L4", "null in the list", "a.jsonl", lines(b'{"text": "x", "label": ["a", null]}'), 2, ("label",)),
    Bad("L4", "true in the list", "a.jsonl", lines(b'{"text": "x", "label": [true]}'), 2, ("quote it",)),
    Bad("L7", "bars in a cell", "a.csv", b'text,label\nx,a|b\ny,"[""a""]"\n', 2, ("a|b", "as a list")),
]

PAIR = [("fine film", "pos"), ("dull plot", "neg")]
SOUND = {
    "BOM": ("D3", "a.jsonl", b"\xef\xbb\xbf" + GOOD + OTHER),
    "BOM in CSV": ("D3", "a.csv", b"\xef\xbb\xbftext,label\nfine film,pos\ndull plot,neg\n"),
    "BOM before an array": ("D3", "a.json", b"\xef\xbb\xbf[" + GOOD + b"," + OTHER + b"]"),
    "CRLF": ("D1", "a.jsonl", (GOOD + OTHER).replace(b"\n", b"\r\n")),
    "CRLF in CSV": ("D12", "a.csv", b"text,label\r\nfine film,pos\r\ndull plot,neg\r\n"),
    "blank lines": ("D9", "a.jsonl", b"\n" + GOOD + b"\n  \n" + OTHER + b"\n\n"),
    "blank lines in CSV": ("D9", "a.csv", b"\ntext,label\n\nfine film,pos\n \ndull plot,neg\n\n"),
    "no last newline": ("D2", "a.jsonl", GOOD + OTHER.strip()),
    "no last newline in CSV": ("D2", "a.csv", b"text,label\nfine film,pos\ndull plot,neg"),
    "JSON array": ("D7", "a.json", b"[" + GOOD + b"," + OTHER + b"]\n"),
    "JSON array on one line": ("D1", "a.json", (b"[" + GOOD + b"," + OTHER + b"]").replace(b"\n", b"")),
    "JSON array as .jsonl": ("D7", "a.jsonl", b" \n[\n" + GOOD + b",\n" + OTHER + b"]"),
    "JSON lines as .json": ("D1", "a.json", GOOD + OTHER),
    "gzip": ("D18", "a.jsonl.gz", gzip.compress(GOOD + OTHER)),
    "gzip in two members": ("D18", "a.jsonl.gz", gzip.compress(GOOD) + gzip.compress(OTHER)),
    "gzipped CSV": ("D18", "a.csv.gz", gzip.compress(b"text,label\nfine film,pos\ndull plot,neg\n")),
    "quoted CSV": ("D11", "a.csv", b'"text","label"\n"fine film","pos"\n"dull plot","neg"\n'),
    "unnamed index column": ("D10", "a.csv", b",text,label\n0,fine film,pos\n1,dull plot,neg\n"),
    "TSV": ("D12", "a.tsv", b"label\ttext\npos\tfine film\nneg\tdull plot\n"),
    "upper-case ending": ("D13", "A.JSONL", GOOD + OTHER),
    "Parquet": ("D13", "a.parquet", parquet({"text": [p[0] for p in PAIR], "label": [p[1] for p in PAIR]})),
    "Parquet of categories": (
        "D13",
        "a.parquet",
        parquet({"text": [p[0] for p in PAIR], "label": pa.array([p[1] for p in PAIR]).dictionary_encode()}),
    ),
    "null where optional": ("D6", "a.jsonl", GOOD.replace(b"}", b', "text_pair": null}') + OTHER),
    "empty cell where optional": ("D10", "a.csv", b"text,label,text_pair\nfine film,pos,\ndull plot,neg,\n"),
}
"""Unusual and right: each holds the rows of PAIR."""


def case_of(one: Bad) -> Case:
    """A broken file as a user's training rows."""
    several = ("task=text-classification", "data.multi_label=true") if one in MANY_LABELS else ()
    return Case(one.kind, one.name, needles=one.needles, files={one.file: one.data},
                overrides=(f"data.train={one.file}", *several))  # fmt: skip


CASES = [
    *map(case_of, [*BAD, *MANY_LABELS]),
    *(
        Case(kind, name, files={file: data}, overrides=(f"data.train={file}",))
        for name, (kind, file, data) in SOUND.items()
    ),
]
