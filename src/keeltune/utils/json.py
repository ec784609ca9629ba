"""JSON from outside, read by one reader: what cannot be held or is ambiguous is a fault with its place, never a crash.

Refused beside broken text: a key given twice (each parser keeps another one), NaN and Infinity, a number beyond
float64 (1e999), a whole number of thousands of digits, lone surrogates, and values nested deeper than `DEPTH`.
Whole numbers of any other size stay exact.

orjson reads; what it refuses, or may have changed without a word, is read once more by the strict decoder of the
standard library, which gives the values that orjson cannot (whole numbers beyond 64 bits) and the fault's place.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from keeltune.utils.errors import Problem, UserError, name_list, visible
from keeltune.utils.files import open_regular, read_at_most

DEPTH = 100
"""Values inside values: no row, configuration or result needs more, and what reads them is recursive."""

MOST_BYTES = 2**28
"""Size of a file that `read_json` takes."""

_EXACT = 2**63
"""Whole numbers from here on are none that orjson is sure to read as whole ones."""


class JsonFault(ValueError):
    """Text that is no JSON that can be used: which kind of fault, what was found and expected, how to fix it.

    position     of the fault in the text, in characters; None where the text is JSON and its value cannot be used
    unfinished   whether the text ends within a value
    """

    def __init__(
        self, kind: str, found: str, expected: str, fix: str, position: int | None = None, unfinished: bool = False
    ):
        super().__init__(found)
        self.kind, self.found, self.expected, self.fix = kind, found, expected, fix
        self.position, self.unfinished = position, unfinished

    def in_text(self, text: str) -> str:
        """What was found, and the text around its place."""
        if self.position is None:
            return self.found
        return f"{self.found}: {visible(text[max(0, self.position - 30) : self.position + 30].rstrip(), 60)}"

    def place(self, text: str) -> str:
        """`:line:column` of the fault in the text, or nothing where it has no place."""
        if self.position is None:
            return ""
        before = text[: self.position]
        return f":{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text (bytes: UTF-8). Raises `JsonFault`, or UnicodeDecodeError where bytes are no UTF-8."""
    data = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    try:
        value = orjson.loads(data)
        if _unambiguous(value, data):
            return value
    except orjson.JSONDecodeError:  # not `suppress`, which costs as much as reading a row
        pass
    return strict_value(text.decode() if isinstance(text, bytes) else text)


def parse_lines(lines: Sequence[bytes]) -> list[Any]:
    """The value of each line that is surely one, and `UNSURE` for those that `parse_json` must look at.

    They are read at once as one array, which takes half the time. No line can know the text that stands between them
    there, so that none can pass for two, nor two for one.
    """
    data = b"[" + _BETWEEN.join(lines) + b"]"
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError:
        return [UNSURE] * len(lines)
    if len(values) != 2 * len(lines) - 1 or values[1::2].count(_TOKEN) != len(lines) - 1:
        return [UNSURE] * len(lines)
    values = values[::2]
    flat = set(map(type, values)) == {dict} and set(map(type, chain.from_iterable(map(dict.values, values)))) <= _PLAIN
    if flat and sum(map(len, values)) == data.count(b":"):
        return values
    return [value if _unambiguous(value, line) else UNSURE for value, line in zip(values, lines, strict=True)]


UNSURE = object()
"""In place of a line's value."""

_TOKEN = secrets.token_hex(8)

_BETWEEN = f',"{_TOKEN}",'.encode()


def _unambiguous(value: Any, data: bytes) -> bool:
    """Whether orjson's value is surely the only one: as many keys as there are separators, no number rounded.

    Each key brings a colon. Where texts hold colons too, those count that stand behind a quotation mark, which is
    none of a text's own; one at the beginning of a text looks so too, and only makes this unsure.
    """
    keys = _keys(value, DEPTH)
    return keys == data.count(b":") or keys == sum(map(_ends_a_name, data.split(b":")[:-1]))


def _ends_a_name(part: bytes) -> bool:
    """Whether what stands before a colon ends with a quotation mark that is not escaped, and perhaps blanks."""
    if part[-1:] not in _BEFORE:
        return False
    part = part.rstrip(b" \t\r\n")
    if not part.endswith(b'"'):
        return False
    before = part[:-1]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 0


_BEFORE = frozenset((b'"', b" ", b"\t", b"\r", b"\n"))


def _keys(value: Any, depth: int) -> float:
    """The keys in a value and in all values inside it; NaN, which equals nothing, where strict reading must decide."""
    kind = type(value)
    if kind is dict:
        count: float = len(value)
        value = value.values()
    elif kind is list:
        count = 0
    else:
        return math.nan if kind is float and not -_EXACT < value < _EXACT else 0
    if not depth:
        return math.nan
    for one in value:
        if type(one) not in _PLAIN:
            count += _keys(one, depth - 1)
    return count


_PLAIN = frozenset((str, int, bool, type(None)))


def strict_value(text: str, *, infinity: bool = False) -> Any:
    """The value of a text by the standard library's decoder, which refuses what the standard forbids.

    infinity   whether NaN and Infinity are taken, which Python writes (a state-space model's configuration has them)
    """
    value, end = strict_prefix(text, after_blanks(text, 0), _LAX if infinity else _STRICT)
    end = after_blanks(text, end)
    if end != len(text):
        raise _broken(json.JSONDecodeError("Extra data", text, end))
    return value


def strict_prefix(text: str, start: int, decoder: json.JSONDecoder | None = None) -> tuple[Any, int]:
    """The value that begins at `start`, and where it ends."""
    depth_fault = JsonFault(
        "nested too deeply", f"values inside values, more than {DEPTH} deep", "a few levels", "write it flat"
    )
    try:
        value, end = (decoder or _STRICT).raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise _broken(error) from None
    except RecursionError:
        raise depth_fault from None
    if text.count("[", start, end) + text.count("{", start, end) > DEPTH and _too_deep(value):
        raise depth_fault
    if decoder is not _FORM and (not text.isascii() or text.find("\\u", start, end) >= 0):
        _check_characters(value)
    return value, end


def end_of_value(text: str, start: int) -> int:
    """Where the value ends that begins at `start`, whatever it holds. Raises `JsonFault` where that cannot be told."""
    return strict_prefix(text, start, _FORM)[1]


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH + 1):
        holders = [one for one in level if isinstance(one, (dict, list))]
        if not holders:
            return False
        level = [inner for one in holders for inner in (one.values() if isinstance(one, dict) else one)]
    return True


def _check_characters(value: Any, name: str = "") -> None:
    """Raises for a text, or a name, that cannot be written in UTF-8; `name` leads to it."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            found = f"half a character ({value[error.start].encode('unicode_escape').decode()})"
            fix = "the text was cut within a character: write it again"
            expected = "text without lone surrogates (\\ud800 to \\udfff)"
            raise JsonFault("half a character", f"{found} in {name or 'the text'}", expected, fix) from None
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_characters(key, f"a name in {name}" if name else "a name")
            _check_characters(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_characters(inner, f"{name}[{number}]")


def _broken(error: json.JSONDecodeError) -> JsonFault:
    text = error.doc
    unfinished = _BEGUN.fullmatch(text.rstrip(), error.pos) is not None or error.msg.startswith("Unterminated")
    return JsonFault("broken JSON", error.msg, "JSON", "correct it there, or just before", error.pos, unfinished)


_BEGUN = re.compile(r"|-|\.|[eE][+-]?|t(ru?)?|f(a(ls?)?)?|n(ul?)?|u[0-9a-fA-F]{0,4}")
"""What is left of a text that was cut within a word, a number or an escape; nothing, where it was cut before one."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = (name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        found = f"more than once: {name_list(twice)}"
        raise JsonFault("key given twice", found, "each key once", "keep one of the values")
    return fields


def _constant(name: str) -> None:
    fix = "write null, a number, or leave the field out"
    raise JsonFault("NaN in JSON", name, "JSON, which has no NaN and no Infinity", fix)


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise JsonFault("number too large", visible(digits, 30), "a number below 1.8e308", "correct the number")
    return number


def _int(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # Python's own limit, as reading them takes quadratic time
        found = f"a whole number of {len(digits)} digits"
        raise JsonFault("number too large", found, "a number of a few digits", "write it as text") from None


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int)

_LAX = json.JSONDecoder(object_pairs_hook=_object, parse_int=_int)

_FORM = json.JSONDecoder(parse_int=str)

_BLANKS = re.compile(r"[ \t\r\n]*")


def after_blanks(text: str, at: int) -> int:
    """The place of the first character from `at` on that is no blank of JSON."""
    match = _BLANKS.match(text, at)
    return match.end() if match else at


def read_json(file: Path, field: str = "", *, kind: type | None = None, infinity: bool = False, fix: str = "") -> Any:
    """The value of a JSON file in UTF-8. Raises `UserError` for whatever keeps it from being one.

    field      what messages call it: a recipe's field, or nothing
    kind       the type that its value must have, as `dict`
    infinity   whether NaN and Infinity are taken, as transformers may write them into a configuration
    fix        how to mend it, where there is more to say than the reader knows
    """
    try:
        with open_regular(file) as stream:
            data = read_at_most(stream, MOST_BYTES)
        if len(data) > MOST_BYTES:
            raise JsonFault("file too large", f"more than {MOST_BYTES} bytes", "a file below that", "name another one")
        data = data.removeprefix(b"\xef\xbb\xbf")
        value = strict_value(data.decode(), infinity=True) if infinity else parse_json(data)
    except JsonFault as fault:
        text = data.decode() if fault.position is not None else ""
        found, where = fault.in_text(text), f"{file}{fault.place(text)}"
        raise UserError(Problem(where, field, found, fault.expected, fix or fault.fix, fault.kind)) from None
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at byte offset {error.start}, which is not UTF-8"
        raise UserError(Problem(str(file), field, found, "JSON in UTF-8", fix or "save it as UTF-8")) from None
    except OSError as error:
        problem = Problem(str(file), field, str(error.strerror), "a file that can be read", fix or "correct the path")
        raise UserError(problem) from None
    if kind is not None and not isinstance(value, kind):
        expected = "a mapping" if kind is dict else f"a {kind.__name__}"
        found = f"{type(value).__name__} at the top"
        raise UserError(Problem(str(file), field, found, expected, fix or "write the file again"))
    return value
