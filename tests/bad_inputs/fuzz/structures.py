"""Mutations that know a format: tables, Parquet, WAV, PNG, safetensors headers, recipes."""

from __future__ import annotations

import csv
import io
import json
import struct
import zlib
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from tests.bad_inputs.fuzz.mutations import NUMBERS, VALUES, changed_value, dumped


def table(data: bytes, random: Random) -> bytes:
    """A CSV file with another cell, header, column or dialect."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"))))
    except csv.Error:
        return data
    if not rows:
        return data
    row = random.choice(rows)
    action = random.randrange(5)
    if action == 0 and row:
        value = random.choice(VALUES)
        row[random.randrange(len(row))] = value if isinstance(value, str) else json.dumps(value)
    elif action == 1:
        row.insert(random.randrange(len(row) + 1), random.choice(("", "x", "text", '["a"]')))
    elif action == 2 and row:
        del row[random.randrange(len(row))]
    elif action == 3:
        rows.insert(random.randrange(len(rows) + 1), random.choice(([], [""], ["x"], list(rows[0]), ["a"] * 40)))
    sink = io.StringIO()
    style: dict[str, Any] = {"delimiter": random.choice(",,,,;\t|"), "quoting": random.choice((0, 1)),
                             "lineterminator": random.choice(("\n", "\n", "\r\n", "\r"))}  # fmt: skip
    csv.writer(sink, **style).writerows(rows)
    return sink.getvalue().encode("utf-8", "surrogatepass")


def _column(size: int, random: Random) -> Any:
    """A Parquet column of a type that no task asks for."""
    kinds: list[tuple[Any, pa.DataType]] = [
        (b"\xff\0x", pa.binary()), (datetime(2020, 1, 1), pa.timestamp("ns", "UTC")), (timedelta(1), pa.duration("us")),
        (Decimal("1.5"), pa.decimal128(20, 3)), (None, pa.null()), (float("nan"), pa.float64()), (1.5, pa.float32()),
        (2**64 - 1, pa.uint64()), (-1, pa.int8()), (True, pa.bool_()), ("x", pa.large_string()), ("", pa.string()),
        (["a", None], pa.list_(pa.string())), ([[1]], pa.list_(pa.list_(pa.int32()))), ([], pa.list_(pa.null())),
        ({"a": 1}, pa.struct([("a", pa.int64())])), ([("k", 1)], pa.map_(pa.string(), pa.int64())),
        ({"bytes": b"x", "path": None}, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        (-(2**62), pa.timestamp("s")), (10**14, pa.date64()),
    ]  # fmt: skip
    value, kind = random.choice(kinds)
    values = [value if random.random() < 0.8 else None for _ in range(size)]
    made = pa.array(values, kind)
    return made.dictionary_encode() if kind in (pa.string(), pa.large_string()) and random.random() < 0.5 else made


def parquet(data: bytes, random: Random) -> bytes:
    """A Parquet file whose columns have other types, names or numbers of rows."""
    try:
        held = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError, ValueError):
        return data
    names, columns = list(held.column_names), list(held.columns)
    if not names:
        return data
    at, action = random.randrange(len(names)), random.randrange(6)
    if action <= 2:
        columns[at] = _column(held.num_rows, random)
    elif action == 3:
        names[at] = random.choice(("", "text", "\0", names[0], "a.b", names[at].upper(), "\u202e", "__index_level_0__"))
    elif action == 4:
        del names[at], columns[at]
    else:
        names.append(random.choice(("extra", names[0])))
        columns.append(_column(held.num_rows, random))
    made = pa.table(columns, names=names)
    if random.random() < 0.1:
        made = made.slice(0, random.choice((0, 1)))
    sink = io.BytesIO()
    try:
        pq.write_table(made, sink, compression=random.choice(("none", "snappy", "gzip", "zstd")),
                       row_group_size=random.choice((1, 1000)))  # fmt: skip
    except (pa.ArrowException, OSError, ValueError):
        return data
    return sink.getvalue()


def wav(data: bytes, random: Random) -> bytes:
    """A WAV file whose header says something else, with another chunk, or with fewer or other samples."""
    out = bytearray(data)
    if len(out) < 60:
        return data
    action = random.randrange(6)
    if action <= 1:  # format, channels, rate, bytes a second, bytes a frame, bits
        at, width = random.choice(((20, 2), (22, 2), (24, 4), (28, 4), (32, 2), (34, 2)))
        known = (3, 6, 7, 0x11, 0x31, 0x55, 0xFFFE, 8, 24, 48000, 8000, 4, 6)
        number = random.choice(NUMBERS + known) % (1 << 8 * width)
        out[at : at + width] = number.to_bytes(width, "little")
    elif action == 2:  # a size: of the file, the format, the sound
        at = random.choice((4, 16, 40))
        out[at : at + 4] = (random.choice(NUMBERS) % 2**32).to_bytes(4, "little")
    elif action == 3:
        name = random.choice((b"LIST", b"fact", b"cue ", b"fmt ", b"data", b"bext", b"\0\0\0\0"))
        body = random.choice((b"", b"x", b"INFOISFT", bytes(40), data[20:36]))
        size = random.choice((len(body), len(body) + 1, 2**32 - 1))
        out[36:36] = name + struct.pack("<I", size) + body
    elif action == 4:
        del out[random.choice((44, 45, 46, 48, 100, len(out) - 1)) :]
    else:
        out[44:] = random.choice((b"\0\x80", b"\xff\x7f", b"\0\0\xc0\x7f", b"\xff\xff")) * random.choice((1, 50, 5000))
    return bytes(out)


def png(data: bytes, random: Random) -> bytes:
    """A PNG file with another header, or chunks left out, repeated, moved, new or packed otherwise; each CRC right."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += 12 + size
    if not chunks:
        return data
    place, action = random.randrange(len(chunks)), random.randrange(6)
    if action <= 1 and len(chunks[0][1]) >= 13:
        body, where = bytearray(chunks[0][1]), random.choice((0, 4, 8, 9, 10, 11, 12))
        width = 4 if where < 8 else 1
        body[where : where + width] = (random.choice((*NUMBERS, 2, 3, 4, 6, 16)) % (1 << 8 * width)).to_bytes(
            width, "big"
        )
        chunks[0][1] = bytes(body)
    elif action == 2:
        del chunks[place]
    elif action == 3:
        chunks.insert(random.randrange(len(chunks) + 1), list(chunks[place]))
    elif action == 4:
        name = random.choice(
            (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"tRNS", b"PLTE", b"gAMA", b"eXIf", b"acTL", b"fcTL", b"ABCD")
        )
        body = random.choice(
            (b"", b"k\0v", b"k\0\0" + zlib.compress(bytes(10**6)), bytes(3), bytes(800), b"MM\0*" + bytes(30))
        )
        chunks.insert(random.randrange(len(chunks) + 1), [name, body])
    else:
        chunks[place][1] = zlib.compress(random.choice((b"", bytes(10), bytes(10**6), b"\xff" * 5000)))
    body = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    return data[:8] + body


def safetensors(data: bytes, random: Random) -> bytes:
    """A safetensors file whose header says something else; its length is right, or an odd number."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return data
    made = dumped(changed_value(header, random), random)
    size = len(made) if random.random() < 0.9 else random.choice(NUMBERS) % 2**64
    return size.to_bytes(8, "little") + made + data[8 + length :]


def recipe(data: bytes, random: Random) -> bytes:
    """A recipe with another value, name or section, in flow style (which JSON is), or as block YAML."""
    try:
        value = YAML(typ="safe", pure=True).load(data.decode())
    except Exception:
        return data
    changed = changed_value(value, random)
    if random.random() < 0.5:
        try:
            sink = io.StringIO()
            YAML(typ="safe", pure=True).dump(changed, sink)
            return sink.getvalue().encode()
        except Exception:
            pass
    return dumped(changed, random)
