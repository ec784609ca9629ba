"""Mutated bytes: flips, cuts, splices, copies, odd numbers and tokens; and values of JSON changed in their structure."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Structure = Callable[[bytes, Random], bytes]
"""A mutation that knows the format: what it makes can still be read as far as its fault."""

TOKENS = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", "\u202e".encode(), "\u2028".encode(),
    b"\x1b[31m", b"\n", b"\r", b"\r\n", b"\t", b'"', b"'", b",", b";", b":", b"{", b"}", b"[", b"]", b"&a *a", b"!!python/name:os.system ",
    b"NaN", b"-Infinity", b"1e999", b"-0", b"null", b"true", b"../", b"/etc/passwd", b"%s%n", b"{text}", b"</s>",
    b"=1+1", b"9" * 400, b"[" * 300, b'{"a":' * 300,
)  # fmt: skip
NUMBERS = (0, 1, -1, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 0.5, -0.0, 1e-300, 1e308, float("inf"), float("nan"), 2**31, 2**53 + 1, 2**63,
    2**64, 10**12, 10**25, -(10**400), "", " ", "\0", "\ud800", "\udc80x", "\u202e", "\u200b", "\x1b[31m", "\r\n", "a" * 5000,
    "../x", "/etc/passwd", "no", "1", "1e5", "{input}", "{0.__class__}", "e\u0301", "\U0001f600", [], {}, [[]], [None], {"": None},
    [1, "a", None], {"a": {"b": []}}, ["a", "a"], deep(50), deep(200),
)  # fmt: skip


def flip(data: bytearray, random: Random) -> None:
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def overwrite(data: bytearray, random: Random) -> None:
    """An odd number of one, two, four or eight bytes."""
    width, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
    at = random.randrange(len(data))
    data[at : at + width] = (random.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]


def delete(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data))
    del data[at : at + random.choice((1, 2, 8, 64, 512))]


def repeat(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data))
    piece = bytes(data[at : at + random.choice((1, 8, 64, 512))])
    data[at:at] = piece * random.choice((1, 1, 2, 50))


def insert(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data) + 1)
    data[at : at + random.choice((0, 0, 1, 4))] = random.choice(TOKENS)


def cut(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data)) :]


def swap(data: bytearray, random: Random) -> None:
    """Two pieces of one length change places."""
    length = random.choice((1, 4, 16, 64))
    a, b = random.randrange(len(data)), random.randrange(len(data))
    data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]


EDITS = (flip, flip, overwrite, overwrite, delete, repeat, insert, insert, cut, swap)


def mutated(data: bytes, random: Random, structure: Structure | None, others: Sequence[bytes] = ()) -> bytes:
    """One file made of `data`: changed in its structure, in its bytes, in both, or spliced with one of `others`."""
    kind = random.random()
    if structure is not None and kind < 0.6:
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            data = structure(data, random)
        if kind < 0.5:
            return data
    if others and kind > 0.95:
        other = random.choice(others)
        data = data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other)) :]
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        if changed:
            random.choice(EDITS)(changed, random)
    return bytes(changed)


def changed_value(value: Any, random: Random) -> Any:
    """A copy of a JSON value in which one place is another value, is gone, or is there under another name or twice."""
    root = [copy.deepcopy(value)]
    places = list(_places(root))[1:] or [(root, 0)]
    holder, key = random.choice(places)
    action = random.random()
    if action < 0.6:
        holder[key] = copy.deepcopy(random.choice(VALUES))
    elif action < 0.7 and holder is not root:
        del holder[key]
    elif action < 0.8 and isinstance(holder, dict):
        name = random.choice((key.upper(), key + " ", key[:-1], key + "\u200b", "__class__", "", "\ud800"))
        holder[name] = holder.pop(key)
    elif action < 0.9:
        other, place = random.choice(places)
        holder[key] = copy.deepcopy(other[place]) if place in other or isinstance(other, list) else None
    elif isinstance(holder[key], str):
        text = bytearray(holder[key].encode("utf-8", "surrogatepass") or b"x")
        random.choice(EDITS)(text, random)
        holder[key] = text.decode("utf-8", "replace")
    elif isinstance(holder[key], list):
        holder[key] = holder[key] * random.choice((0, 2, 100))
    elif isinstance(holder[key], (int, float)):
        holder[key] = random.choice((-holder[key], holder[key] * 10**6, str(holder[key]), [holder[key]]))
    else:
        holder[key] = [holder[key]]
    return root[0]


def _places(holder: Any) -> Any:
    """(container, key) of every value inside, from the outermost."""
    for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
        yield holder, key
        if isinstance(holder[key], (dict, list)):
            yield from _places(holder[key])


def json_text(data: bytes, random: Random) -> bytes:
    """A mutation of a JSON document."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return dumped(changed_value(value, random), random)


def dumped(value: Any, random: Random) -> bytes:
    """As JSON; at times a number of 5,000 digits or 100,000 brackets stand where a value did, or a key twice."""
    text = json.dumps(value, ensure_ascii=random.random() < 0.8)
    rare = random.random()
    if rare < 0.02:
        text = text.replace("null", "9" * 5000, 1) if "null" in text else text.replace("1", "9" * 5000, 1)
    elif rare < 0.03:
        text = text.replace('": ', '": ' + "[" * 100_000, 1)
    elif rare < 0.06 and text.startswith("{"):
        text = "{" + text[1:-1] + ", " + text[1:]
    return text.encode("utf-8", "surrogatepass")


def json_lines(data: bytes, random: Random) -> bytes:
    """A mutation of one line of JSON lines."""
    lines = data.splitlines() or [b""]
    at = random.randrange(len(lines))
    lines[at] = json_text(lines[at], random)
    return b"\n".join(lines) + b"\n"
