"""Broken data files after FAULTS.md §3 (D1-D18, L3, L4, L7), each with what its message must say; and sound ones.

A case is (name, file name, bytes, line of the bad row or None for the whole file, needles in the message).
"""

from __future__ import annotations

import gzip
import io
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq


class Bad(NamedTuple):
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


def parquet(columns: dict, **options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


_TABLE = parquet({"text": ["fine film"] * 50, "label": ["pos"] * 50}, write_page_checksum=True, compression="none")
_GZ = gzip.compress(GOOD * 200)

BAD = [
    # what is in a file
    Bad(
        "broken JSON", "a.jsonl", lines(b'{"text": "x", "label" "pos"}'), 2, ("a.jsonl:2:23", "Expecting ':' delimiter")
    ),
    Bad("single quotes", "a.jsonl", lines(b"{'text': 'x'}"), 2, ("a.jsonl:2:2", "double quotes")),
    Bad(
        "two rows in a line",
        "a.jsonl",
        lines(GOOD.strip() + OTHER.strip()),
        2,
        ("Extra data", "one JSON object a line"),
    ),
    Bad("last line cut", "a.jsonl", GOOD + b'{"text": "fi', 2, ("ends within this row", "Unterminated")),
    Bad("last line cut after a comma", "a.jsonl", GOOD + b'{"text": "fi",', 2, ("ends within this row",)),
    Bad(
        "invalid UTF-8",
        "a.jsonl",
        lines(b'{"text": "caf\xe9!", "label": "pos"}'),
        2,
        ("0xe9", f"offset {len(GOOD) + 13} "),
    ),
    Bad("invalid UTF-8 after a BOM", "a.jsonl", b"\xef\xbb\xbf" + lines(b"\xff"), 2, (f"offset {len(GOOD) + 3} ",)),
    Bad("UTF-16 with BOM", "a.jsonl", GOOD.decode().encode("utf-16"), None, ("UTF-16", "iconv")),
    Bad("UTF-16 without BOM", "a.csv", "text,label\nx,pos\n".encode("utf-16-le"), None, ("UTF-16", "UTF-8")),
    Bad("raw NUL", "a.jsonl", lines(b'{"text": "a\0b", "label": "pos"}'), 2, ("Invalid control character", "\\x00")),
    Bad("written NUL", "a.jsonl", lines(rb'{"text": "a\u0000b", "label": "pos"}'), 2, ("NUL", "a\\x00b", "text")),
    Bad("lone surrogate", "a.jsonl", lines(rb'{"text": "a\ud83d", "label": "pos"}'), 2, ("surrogate", "\\ud83d")),
    Bad("NaN", "a.jsonl", lines(b'{"text": "x", "label": NaN}'), 2, ("NaN", "null")),
    Bad(
        "Infinity in an extra column", "a.jsonl", lines(b'{"text": "x", "label": "pos", "w": -Infinity}'), 2, ("-Inf",)
    ),
    Bad(
        "key given twice",
        "a.jsonl",
        lines(b'{"text": "x", "text": "y", "label": "pos"}'),
        2,
        ("more than once", '"text"'),
    ),
    Bad("row is a list", "a.jsonl", lines(b'["x", "pos"]'), 2, ("an object", "(a list)")),
    Bad("rows are lists", "a.jsonl", b'["x", "pos"]\n["y", "neg"]\n', 1, ("an object", "(a list)")),
    Bad("row is null", "a.jsonl", lines(b"null"), 2, ("an object", "nothing")),
    Bad("nested without end", "a.jsonl", lines(b"[" * 100_000), 2, ("100 deep",)),
    Bad("endless number", "a.jsonl", lines(b'{"text": "x", "label": ' + b"9" * 5000 + b"}"), 2, ("5000 digits",)),
    Bad("pretty-printed", "a.jsonl", b'{\n "text": "x",\n "label": "pos"\n}\n', None, ("over several lines", "jq -c")),
    Bad("array cut", "a.json", b'[{"text": "x", "label": "pos"},\n{"text": ', None, (":2:10", "element 2")),
    Bad("array without comma", "a.json", b'[{"text": "x", "label": "a"}\n{}]', None, (":2:1", "','")),
    Bad("text after an array", "a.json", b'[{"text": "x", "label": "a"}] etc', None, ("Extra data", ":1:")),
    Bad(
        "element not an object", "a.json", b'[{"text": "x", "label": "pos"}, 3]', 2, ("an object", "3 (a whole number)")
    ),
    Bad("key twice in an array", "a.json", b'[{"text": "x", "label": "a"}, {"a": 1, "a": 2}]', 2, ("more than once",)),
    Bad("array not UTF-8", "a.json", b'[{"text": "caf\xe9", "label": "a"}]', None, ("0xe9", "offset 14 ")),
    # whole files
    Bad("empty file", "a.jsonl", b"", None, ("0 bytes", "at least one row")),
    Bad("blank file", "a.csv", b"\n \n", None, ("no row",)),
    Bad("empty array", "a.json", b"[]", None, ("no row",)),
    Bad("header only", "a.csv", b"text,label\n", None, ("no row",)),
    Bad("Parquet without rows", "a.parquet", parquet({"text": pa.array([], pa.string())}), None, ("no row",)),
    Bad("HTML as JSON lines", "a.jsonl", b"<!DOCTYPE html><p>404</p>", None, ("HTML", "download")),
    Bad("HTML as Parquet", "a.parquet", b"\n<html><p>404</p>", None, ("HTML", "download")),
    Bad("git-lfs pointer", "a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", None, ("git lfs pull",)),
    Bad("spreadsheet as CSV", "a.csv", b"PK\x03\x04etc", None, ("spreadsheet", "as CSV")),
    Bad("Parquet as CSV", "a.csv", _TABLE, None, ("Parquet data", ".parquet")),
    Bad("gzip without its ending", "a.jsonl", _GZ, None, ("gzip data", ".gz")),
    Bad("gzip cut", "a.jsonl.gz", _GZ[:-20], None, ("ended before", "gzip -t")),
    Bad("gzip with a bad CRC", "a.jsonl.gz", flipped(_GZ, len(_GZ) - 6), None, ("CRC", "gzip -t")),
    Bad("gzip that is none", "a.jsonl.gz", GOOD, None, ("Not a gzipped file",)),
    Bad("Parquet cut", "a.parquet", _TABLE[:-30], None, ("Parquet magic bytes", "whole Parquet file")),
    Bad("Parquet with a flipped page", "a.parquet", flipped(_TABLE, 60), None, ("Parquet", "again")),
    # CSV and TSV
    Bad("extra column", "a.csv", b"text,label\nx,pos\ngood, really,pos\ny,neg\n", 3, ("3 columns", "quotation marks")),
    Bad("missing column", "a.csv", b"text,label\nx,pos\nonly text\ny,neg\n", 3, ("1 columns", "2 columns: ")),
    Bad("last record cut", "a.csv", b"text,label\nx,pos\ny", 3, ("1 columns", "cut")),
    Bad("unclosed quote", "a.csv", b'text,label\nx,pos\n"open,neg\ny,pos\nz,neg\n', 3, ("a.csv:3", "not closed")),
    Bad("unclosed quote before another", "a.csv", b'text,label\n"open,neg\n"y",pos\nz,neg\n', 2, ("a.csv:2", '""')),
    Bad("CSV not UTF-8", "a.csv", b"text,label\nx,pos\ncaf\xe9,neg\n", 3, ("0xe9", "offset 20 ", "iconv")),
    Bad("NUL in CSV", "a.csv", b"text,label\nx\0y,pos\nz,neg\n", 2, ("NUL",)),
    Bad("semicolons", "a.csv", b"text;label\nx;pos;more\n", None, ("semicolons", "commas")),
    Bad("tabs in a CSV", "a.csv", b"text\tlabel\nx\tpos\ty\n", None, ("tabs", ".tsv")),
    Bad("commas in a TSV", "a.tsv", b"text,label\nx,pos,y\n", None, ("commas", ".csv")),
    Bad("column twice", "a.csv", b"text,label,text\nx,pos,y\n", None, ("more than once", '"text"', "a.csv:1")),
    Bad("no header", "a.csv", b"a fine little film,pos\ndull,neg\nfine,pos\n", None, ("first line seems to be a row",)),
    Bad("no header, numbers", "a.csv", b"good,1\nbad,0\n", None, ("first line seems to be a row",)),
    Bad("TSV missing column", "a.tsv", b'text\tlabel\nx\tpos\nsays "no\ny\tneg\n', 3, ("1 columns",)),
    # columns
    Bad(
        "column misspelt", "a.jsonl", b'{"txt": "x", "label": "pos"}\n' * 3, None, ('did you mean "txt"', "{text: txt}")
    ),
    Bad("CSV column misspelt", "a.csv", b"text,labels\nx,pos\n", None, ('"labels"', "data.columns")),
    Bad(
        "field misspelt in one row",
        "a.jsonl",
        lines(b'{"tekst": "x", "label": "pos"}'),
        2,
        ('did you mean "tekst"', '"text"'),
    ),
    Bad("field missing in one row", "a.jsonl", lines(b'{"text": "x"}'), 2, ('no "label" among "text"',)),
    Bad("rows without a field", "a.jsonl", b"{}\n{}\n", None, ("among none", '"text"')),
    # texts
    Bad("null text", "a.jsonl", lines(b'{"text": null, "label": "pos"}'), 2, ("nothing", "text")),
    Bad(
        "number as text",
        "a.jsonl",
        lines(b'{"text": 12, "label": "pos"}'),
        2,
        ("12 (a whole number)", "quotation marks"),
    ),
    Bad("list as text", "a.jsonl", lines(b'{"text": ["x"], "label": "pos"}'), 2, ("(a list)", "text")),
    Bad("empty text", "a.jsonl", lines(b'{"text": "", "label": "pos"}'), 2, ("blank",)),
    Bad("white text", "a.jsonl", lines(rb'{"text": " \t\u3000", "label": "pos"}'), 2, ("blank",)),
    Bad("empty CSV cell", "a.csv", b"text,label\n,pos\nx,neg\n", 2, ("blank", "text")),
    Bad("empty optional text", "a.jsonl", lines(b'{"text": "x", "text_pair": "", "label": "pos"}'), 2, ("text_pair",)),
    Bad("bytes in Parquet", "a.parquet", parquet({"text": [b"x"], "label": ["a"]}), 1, ("bytes", "text")),
    # labels
    Bad("true as label", "a.jsonl", lines(b'{"text": "x", "label": true}'), 2, ('quote it: "true"',)),
    Bad("fraction as label", "a.jsonl", lines(b'{"text": "x", "label": 0.5}'), 2, ("0.5 (a number)", "whole number")),
    Bad("null label", "a.jsonl", lines(b'{"text": "x", "label": null}'), 2, ("nothing", "data.unlabeled")),
    Bad("blank label", "a.csv", b"text,label\nx, \ny,neg\n", 2, ("blank", "label")),
    Bad("negative label", "a.jsonl", lines(b'{"text": "x", "label": -1}'), 2, ("-1", "from 0")),
    Bad("negative label in CSV", "a.csv", b"text,label\nx,-1\ny,1\n", 2, ("-1", "from 0")),
    Bad("list as label", "a.jsonl", lines(b'{"text": "x", "label": ["pos"]}'), 2, ("multi_label: true",)),
    Bad(
        "mapping as label", "a.jsonl", lines(b'{"text": "x", "label": {"is": "pos"}}'), 2, ("a mapping", "whole number")
    ),
    Bad("NaN label in Parquet", "a.parquet", parquet({"text": ["x", "y"], "label": [1.0, float("nan")]}), 2, ("nan",)),
]

MANY_LABELS = [
    Bad(
        "one label for several",
        "a.jsonl",
        lines(b'{"text": "x", "label": "pos"}'),
        2,
        ('["news"]', "multi_label: false"),
    ),
    Bad("label twice", "a.jsonl", lines(b'{"text": "x", "label": ["a", "b", "a"]}'), 2, ("once",)),
    Bad("null in the list", "a.jsonl", lines(b'{"text": "x", "label": ["a", null]}'), 2, ("label",)),
    Bad("true in the list", "a.jsonl", lines(b'{"text": "x", "label": [true]}'), 2, ("quote it",)),
    Bad("bars in a cell", "a.csv", b'text,label\nx,a|b\ny,"[""a""]"\n', 2, ("a|b", "as a list")),
]

PAIR = [("fine film", "pos"), ("dull plot", "neg")]
SOUND = {
    "BOM": ("a.jsonl", b"\xef\xbb\xbf" + GOOD + OTHER),
    "BOM in CSV": ("a.csv", b"\xef\xbb\xbftext,label\nfine film,pos\ndull plot,neg\n"),
    "BOM before an array": ("a.json", b"\xef\xbb\xbf[" + GOOD + b"," + OTHER + b"]"),
    "CRLF": ("a.jsonl", (GOOD + OTHER).replace(b"\n", b"\r\n")),
    "CRLF in CSV": ("a.csv", b"text,label\r\nfine film,pos\r\ndull plot,neg\r\n"),
    "blank lines": ("a.jsonl", b"\n" + GOOD + b"\n  \n" + OTHER + b"\n\n"),
    "blank lines in CSV": ("a.csv", b"\ntext,label\n\nfine film,pos\n \ndull plot,neg\n\n"),
    "no last newline": ("a.jsonl", GOOD + OTHER.strip()),
    "no last newline in CSV": ("a.csv", b"text,label\nfine film,pos\ndull plot,neg"),
    "JSON array": ("a.json", b"[" + GOOD + b"," + OTHER + b"]\n"),
    "JSON array on one line": ("a.json", (b"[" + GOOD + b"," + OTHER + b"]").replace(b"\n", b"")),
    "JSON array as .jsonl": ("a.jsonl", b" \n[\n" + GOOD + b",\n" + OTHER + b"]"),
    "JSON lines as .json": ("a.json", GOOD + OTHER),
    "gzip": ("a.jsonl.gz", gzip.compress(GOOD + OTHER)),
    "gzip in two members": ("a.jsonl.gz", gzip.compress(GOOD) + gzip.compress(OTHER)),
    "gzipped CSV": ("a.csv.gz", gzip.compress(b"text,label\nfine film,pos\ndull plot,neg\n")),
    "quoted CSV": ("a.csv", b'"text","label"\n"fine film","pos"\n"dull plot","neg"\n'),
    "unnamed index column": ("a.csv", b",text,label\n0,fine film,pos\n1,dull plot,neg\n"),
    "TSV": ("a.tsv", b"label\ttext\npos\tfine film\nneg\tdull plot\n"),
    "upper-case ending": ("A.JSONL", GOOD + OTHER),
    "Parquet": ("a.parquet", parquet({"text": [p[0] for p in PAIR], "label": [p[1] for p in PAIR]})),
    "Parquet of categories": (
        "a.parquet",
        parquet({"text": [p[0] for p in PAIR], "label": pa.array([p[1] for p in PAIR]).dictionary_encode()}),
    ),
    "null where optional": ("a.jsonl", GOOD.replace(b"}", b', "text_pair": null}') + OTHER),
    "empty cell where optional": ("a.csv", b"text,label,text_pair\nfine film,pos,\ndull plot,neg,\n"),
}
"""Unusual and right: each holds the rows of PAIR."""
