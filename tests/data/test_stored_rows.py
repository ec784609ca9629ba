"""Rows that stay in their files are the rows that are held, and so is all that is said of them; memory hardly grows."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keeltune.data.audit import audit
from keeltune.data.columns import Column
from keeltune.data.dataset import Row, blocks, input_hashes, nested_share, place, split_share, take, without
from keeltune.data.labels import names_of_data
from keeltune.data.reading import read, read_batches
from keeltune.data.row_labels import apply_label_map, label_counts
from keeltune.data.sources import DataSource
from keeltune.data.stored_rows import StoredRows, stored
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.json_search import may_hold

COLUMNS = (Column("text"), Column("text_pair", required=False), Column("label", "label", label=True))
INPUTS = ["text", "text_pair"]
LINES = 4000
"""Lines of 200 bytes: three times what is read at once."""


def stored_rows(file: Path, problems: list[Problem] | None = None) -> StoredRows:
    found = list[Problem]() if problems is None else problems
    return stored(read_batches(DataSource(str(file)), COLUMNS, {}, found), INPUTS, has_label=True)


def lines_of(count: int = LINES) -> list[str]:
    draw = random.Random(0)
    texts = [f"{draw.randrange(count // 2)} " + "ä word " * 24 for _ in range(count)]
    return [
        json.dumps(
            {"id": i, "text": text, "label": draw.choice(["good", "Good", "bad", "godo"])}, ensure_ascii=i % 2 > 0
        )
        for i, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a byte order mark, blank lines, and a column that only later rows have."""
    path, lines = tmp_path_factory.mktemp("rows") / "train.jsonl", lines_of()
    lines[1500] = json.dumps({"text": "another", "label": "bad", "text_pair": "its pair", "more": [1.5, None]})
    lines[1501] = ""
    path.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    return path


def test_they_are_the_rows_that_are_held(file: Path):
    held, rows = read(DataSource(str(file)), COLUMNS, {})[0], stored_rows(file)
    assert len(rows) == len(held) == LINES - 1 and list(rows) == held
    assert [rows[0], rows[-1], *rows[1498:1502]] == [held[0], held[-1], *held[1498:1502]]
    chosen = np.array([3998, 7, 2000])
    assert list(take(rows, chosen)) == take(held, chosen)
    assert [place(rows, i) for i in (0, 1500, 1501)] == [(str(file), 1), (str(file), 1501), (str(file), 1503)]
    assert list(without(rows, {(str(file), 1)})) == held[1:]
    assert all(part.held is None for part in rows.parts)
    with pytest.raises(IndexError, match="row 3999 of 3999"):
        rows[len(rows)]


@pytest.mark.parametrize("ending", ["json", "csv", "jsonl.gz"])
def test_rows_that_cannot_be_read_from_the_middle_are_held(tmp_path: Path, ending: str):
    values = [{"text": f"a, {i}", "label": "x"} for i in range(1200)]
    written = {
        "json": json.dumps(values).encode(),
        "csv": b"text,label\n" + b"".join(f'"a, {i}",x\n'.encode() for i in range(1200)),
        "jsonl.gz": gzip.compress(b"".join(json.dumps(value).encode() + b"\n" for value in values)),
    }
    (tmp_path / f"a.{ending}").write_bytes(written[ending])
    rows = stored_rows(tmp_path / f"a.{ending}")
    assert list(rows) == read(DataSource(str(tmp_path / f"a.{ending}")), COLUMNS, {})[0]
    assert len(rows) == 1200 and all(part.held is not None for part in rows.parts)


def test_all_that_is_said_of_them_is_the_same(file: Path, tmp_path: Path):
    (tmp_path / "test.jsonl").write_text("\n".join(lines_of()[:300]), encoding="utf-8")
    files = {"train": file, "test": tmp_path / "test.jsonl"}
    held = {name: read(DataSource(str(path)), COLUMNS, {})[0] for name, path in files.items()}
    rows = {name: stored_rows(path) for name, path in files.items()}
    assert label_counts(rows["train"]) == label_counts(held["train"])
    named = [names_of_data(s["train"], listed=None, head=None, multi_label=False) for s in (held, rows)]
    assert named[0] == named[1] and len(named[0][1]) == 1  # good and Good; godo is as common
    for names in (["bad", "good"], named[0][0]):
        found = [audit(s, names, COLUMNS, False) for s in (held, rows)]
        assert found[0] == found[1]
    kinds = [problem.kind for problem in found[0][0]]
    assert kinds == ["rows shared by train, test", "conflicts in train", "repeated rows", "conflicts in test"]
    assert np.array_equal(input_hashes(held["train"], INPUTS), input_hashes(rows["train"], INPUTS))
    for share in (lambda r: split_share(r, 0.2, 1), lambda r: [nested_share(r, 0.1)]):
        of_held, of_rows = ([list(part) for part in share(s["train"])] for s in (held, rows))
        assert of_held == of_rows


def test_labels_of_the_model_are_theirs_too(file: Path):
    mapping = {"good": "pos", "Good": "pos", "bad": "neg"}
    held, of_held = apply_label_map(read(DataSource(str(file)), COLUMNS, {})[0], mapping)
    rows, of_rows = apply_label_map(stored_rows(file), mapping)
    assert of_rows == of_held and len(of_rows) > 900 and {p.found[:6] for p in of_rows} == {'"godo"'}
    assert list(rows) == held and label_counts(rows) == label_counts(held) and set(label_counts(rows)) == {"pos", "neg"}


FAULTS = {
    "broken JSON": '{"text": "a", "label" "x"}',
    "key given twice": '{"text": "a", "text": "b", "label": "x"}',
    "row not an object": "[1]",
    "missing field": '{"text": "a"}',
    "empty text": '{"text": " ", "label": "x"}',
    "NUL character": r'{"text": "a\u0000", "label": "x"}',
    "not text": '{"text": 3, "label": "x"}',
    "negative label": '{"text": "a", "label": -1}',
    "half a character": r'{"text": "\ud800", "label": "x"}',
    "number too large": '{"text": "a", "label": "x", "more": 1e999}',
    "not UTF-8": "\udcff",
}


def test_every_fault_of_every_row_is_found_with_its_line_wherever_it_lies(tmp_path: Path):
    """One in nine lines is faulty, of each kind in turn, so that many lie at the borders of what is read at once."""
    lines, expected, kinds = lines_of(), dict[int, str](), list(FAULTS)
    for number, i in enumerate(range(0, LINES, 9)):
        kind = kinds[number % len(kinds)]
        lines[i], expected[i + 1] = FAULTS[kind], kind
    path = tmp_path / "train.jsonl"
    path.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    problems = list[Problem]()
    rows = stored_rows(path, problems)
    found = {int(problem.where.removeprefix(f"{path}:").split(":")[0]): problem.kind for problem in problems}
    assert found == expected and len(problems) == len(expected)
    assert [row.line for row in rows] == [n for n in range(1, LINES + 1) if n not in expected]
    held, of_held = read(DataSource(str(path)), COLUMNS, {})
    assert held == list(rows) and of_held == problems


def peak(file: Path) -> int:
    """Bytes at most while rows are read, labelled and compared."""
    stored_rows(file)  # what is made once
    tracemalloc.start()
    try:
        rows = stored_rows(file)
        names, *_ = names_of_data(rows, listed=None, head=None, multi_label=False)
        audit({"train": rows}, names, COLUMNS, False)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_hardly_grows_with_rows(tmp_path: Path):
    """A row of 330 bytes takes 0.8 kB where it is held; what reading takes at once is a megabyte or two."""
    sizes = []
    for count in (3000, 12_000):
        rows = [{"text": f"{i} " + "word " * 60, "label": "ab"[i % 2]} for i in range(count)]
        (tmp_path / f"{count}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sizes.append(peak(tmp_path / f"{count}.jsonl"))
    assert sizes[1] - sizes[0] < 120 * 9000


def test_a_file_that_changed_meanwhile_is_refused(tmp_path: Path):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(lines_of(2000)), encoding="utf-8")
    rows = stored_rows(path)
    for other in ("\n".join(lines_of(2000)[7:]), "[]"):
        path.write_text(other, encoding="utf-8")
        with pytest.raises(UserError, match=r"train.jsonl\n.*changes while it is read"):
            list(rows)
    path.unlink()
    with pytest.raises(UserError, match="changes while it is read"):
        rows[0]


def spellings(text: str) -> Iterator[str]:
    """JSON strings of a text: as it is, and with each character escaped in turn, or all."""
    units = [c.encode("utf-16-be") for c in text]
    escaped = ["".join(f"\\u{int.from_bytes(u[i : i + 2], 'big'):04X}" for i in range(0, len(u), 2)) for u in units]
    plain = [json.dumps(c, ensure_ascii=False)[1:-1] for c in text]
    yield "".join(plain)
    yield json.dumps(text)[1:-1]
    yield "".join(escaped)
    for i in range(len(text)):
        yield "".join([*plain[:i], escaped[i].lower(), *plain[i + 1 :]])
    yield "".join(plain).replace("/", "\\/")


@pytest.mark.parametrize("name", ["</s>", "[CLS]", "/x", "<|im_end|>", "▁pad", "🙂🙂", '"quoted', "a"])
def test_a_text_is_found_in_json_however_it_is_escaped(name: str):
    tell = may_hold([name])
    for spelt in spellings(name):
        data = f'{{"text": "some {spelt} text"}}'.encode()
        assert name in json.loads(data)["text"] and tell(data), spelt
    assert not tell(b'{"text": "nothing of it"}') or name == "a"


def test_blocks_without_a_candidate_are_not_read(tmp_path: Path):
    lines = [json.dumps({"text": f"row {i}", "label": "x"}) for i in range(50)]
    lines[23] = r'{"text": "a \u003c/s> here", "label": "x"}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found: list[list[Row]] = [
        list(block) for block in blocks(stored_rows(tmp_path / "a.jsonl"), 10, may_hold(["</s>"]))
    ]
    assert [row.line for block in found for row in block] == list(range(21, 31))
    held: list[Any] = read(DataSource(str(tmp_path / "a.jsonl")), COLUMNS, {})[0]
    assert [len(block) for block in blocks(held, 20, may_hold(["</s>"]))] == [20, 20, 10]
