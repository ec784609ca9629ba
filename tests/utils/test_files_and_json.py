"""JSON from outside: what is read is what the standard says, and everything else is a fault with its place."""

from __future__ import annotations

import json
import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from keeltune.utils.errors import UserError
from keeltune.utils.files import open_regular
from keeltune.utils.json import DEPTH, UNSURE, JsonFault, parse_json, parse_lines, read_json

FAULTS = {
    "key given twice": ['{"a": 1, "a": 2}', '{"a": 1, "a" : 2}', '{"a":1,"a"\t:2}', '[{"b": {"c": 1, "c": 1}}]',
                        '{"a\\\\": 1, "b": "x :", "b": ":"}', '{"a\\\\\\"": ":", "a\\\\\\"": ":"}'],
    "NaN in JSON": ["NaN", '{"a": -Infinity}', '[{"a": [Infinity]}]'],
    "number too large": ["1e999", '{"a": -1e400}', "1" * 5000, "-" + "9" * 100_000],
    "nested too deeply": ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 500 + "1" + "}" * 500,
                          "[" * (DEPTH + 1) + "]" * (DEPTH + 1)],
    "half a character": ['"\\ud83d"', '{"a": {"b": ["x\\ude00"]}}', '{"\\udfff": 1}', '"\ud800"'],
    "broken JSON": ["", "{", "[1,]", "{'a': 1}", '{"a": 1} x', '"a\x01"', "01", "+1", '{"a": 1,}'],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FAULTS.items() for text in texts])
def test_what_is_ambiguous_or_cannot_be_held_is_a_fault(kind: str, text: str):
    with pytest.raises(JsonFault) as caught:
        parse_json(text)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    "text",
    ['{"a": "\\":", "b": "x\\" :"}', '{"a": ":::", "b" : ": :"}', "[99999999999999999999, -9223372036854775809]",
     '{"x": 1e20, "y": 1e-400, "z": -0.0, "i": 18446744073709551616}', '"\\ud83d\\ude00\\u2028"',
     "[" * DEPTH + "]" * DEPTH, "[" + ",".join(["[]"] * 500) + "]", ' \n[1, {"é": "ü :"}]\r\n'],
)  # fmt: skip
def test_values_are_those_of_the_standard_library(text: str):
    for form in (text, text.encode()):
        assert repr(parse_json(form)) == repr(json.loads(text))


def test_a_file_is_refused_with_its_place(tmp_path: Path):
    file = tmp_path / "a.json"
    for content, needles in {
        b'{\n"a": 1,\n  "b" 2}': (":3:7", "Expecting ':'"),
        b"\xef\xbb\xbf[1]": ("list at the top", "a mapping"),
        b'{"a": "\xff"}': ("byte offset 7",),
        b'{"a": Infinity}': ("NaN and no Infinity",),
    }.items():
        file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read_json(file, kind=dict)
        assert all(needle in str(caught.value) for needle in needles), str(caught.value)
    assert read_json(file, infinity=True) == {"a": float("inf")}
    with pytest.raises(UserError, match="No such file"):
        read_json(tmp_path / "b.json")


def test_only_files_are_opened(tmp_path: Path):
    """A named pipe would wait for ever, a device would give no end."""
    os.mkfifo(tmp_path / "pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    server.close()
    for path, word in [(tmp_path / "pipe", "named pipe"), (tmp_path, "folder"), (Path("/dev/zero"), "device"),
                       (Path("/dev/stdin"), ""), (tmp_path / "socket", ""), (tmp_path / "a\0b", "")]:  # fmt: skip
        with pytest.raises(OSError) as caught:  # noqa: PT011 (its words are looked at here)
            if path == Path("/dev/stdin") and path.is_file():
                raise OSError
            open_regular(path)
        assert word in str(caught.value.strerror)


def test_a_link_that_is_swapped_in_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root, outside = tmp_path / "data", tmp_path / "secret"
    (root / "inner").mkdir(parents=True)
    (root / "inner" / "file").write_text("ours")
    (root / "link").symlink_to("inner/file")  # a link that stays inside is one
    outside.mkdir()
    (outside / "file").write_text("theirs")
    with open_regular(Path("link"), root) as stream:
        assert stream.read() == b"ours"
    with pytest.raises(OSError, match="leads out"):
        open_regular(Path("../secret/file"), root)
    resolved = Path.resolve

    def then_swapped(path: Path, strict: bool = False) -> Path:
        target = resolved(path, strict)
        if target.name == "file":
            (root / "inner").rename(root / "old")
            (root / "inner").symlink_to(outside)
        return target

    monkeypatch.setattr(Path, "resolve", then_swapped)
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        open_regular(Path("inner/file"), root)


def test_lines_read_at_once_are_those_read_one_by_one():
    """Among them pairs that are JSON only together, and lines that hold two values."""
    lines = [b'{"a": 1}', b'{"a": "x: y", "b": "\\": "}', b'{"a" : {"b": [1, {"c": 2}]}}', b"[1]", b"3", b'"x"', b"{}",
             b'{"n": 99999999999999999999}', b'{"f": 1.5, "t": true, "z": null}']  # fmt: skip
    bad = [b'{"x": [1', b"2]}", b'{"a": 1},{"b": 2}', b'{"x":[{}', b"{}]}", b'{"a": 1, "a": 2}', b"", b"\xff", b"NaN",
           b'{"a":{"b":1,"b":1}}', b'{"a": "\\ud800"}', b"[" * 200 + b"]" * 200]  # fmt: skip
    for batch in [lines, *([*lines[:4], one, *lines[4:]] for one in bad), bad, bad[3:5], bad[:3], [lines[0]]]:
        values = parse_lines(batch)
        assert len(values) == len(batch)
        for line, value in zip(batch, values, strict=True):
            if value is not UNSURE:
                assert repr(value) == repr(parse_json(line))
    assert UNSURE not in parse_lines([lines[0], lines[4], lines[6], lines[8]])


def test_random_values_with_quotes_colons_and_backslashes_and_keys_given_twice():
    """A fast reader that took one key for two, or two for one, would be found here."""
    draw = random.Random(0)
    twice = 0

    def text() -> str:
        return "".join(draw.choices('"\\: aé\n{},[]\t', k=draw.randrange(6)))

    def value(depth: int) -> Any:
        kind = draw.random() if depth else 1.0
        if kind < 0.3:
            return {text(): value(depth - 1) for _ in range(draw.randrange(3))}
        return [value(depth - 1), text()] if kind < 0.5 else draw.choice([text(), text(), 1, 2.5, True, None, 10**20])

    def written(one: Any, repeats: bool) -> str:
        nonlocal twice
        blank = draw.choice(["", " ", "\t"])
        if isinstance(one, list):
            return f"[{','.join(written(inner, repeats) for inner in one)}]"
        if not isinstance(one, dict):
            return json.dumps(one)
        items = list(one.items())
        if repeats and items and draw.random() < 0.5:
            items.append(draw.choice(items))
            twice += 1
        pairs = (f"{json.dumps(k, ensure_ascii=False)}{blank}:{blank}{written(v, repeats)}" for k, v in items)
        return f"{{{','.join(pairs)}}}"

    for _ in range(3000):
        before = twice
        line = written({text(): value(2) for _ in range(draw.randrange(1, 4))}, draw.random() < 0.4)
        (fast,) = parse_lines([line.encode()])
        if twice > before:
            assert fast is UNSURE
            with pytest.raises(JsonFault, match="more than once"):
                parse_json(line)
        else:
            assert fast is UNSURE or repr(fast) == repr(json.loads(line))
            assert repr(parse_json(line)) == repr(json.loads(line))
    assert twice > 300
