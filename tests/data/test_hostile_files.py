"""Data files that would not end, do not fit, or are no files: refused by name, before they take time or memory."""

from __future__ import annotations

import gzip
import json
import os
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keeltune.data import sources
from keeltune.data.columns import Column
from keeltune.data.file_formats.file_format import Batch, FileLog
from keeltune.data.file_reader import FileReader
from keeltune.data.reading import read
from keeltune.data.sources import DataFile, DataSource
from keeltune.data.term_lists import read_terms
from keeltune.utils.errors import UserError

COLUMNS = [Column("text"), Column("label", "label", label=True)]


def problems_of(path: Path) -> list[str]:
    return [str(problem) for problem in read(DataSource(str(path)), COLUMNS, {})[1]]


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path):
    """A quarter of a gigabyte of blanks in a quarter of a megabyte; and what is only well compressed is read."""
    bomb = tmp_path / "bomb.jsonl.gz"
    block = gzip.compress(b" " * 2**24)
    bomb.write_bytes(block * 16)  # a gzip file may have members
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (problem,) = problems_of(bomb)
    assert "gzip" in problem and "gunzip" in problem
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kB
    good = tmp_path / "good.jsonl.gz"
    good.write_bytes(gzip.compress(b'{"text": "x", "label": "pos"}\n' * 20_000))
    assert len(good.read_bytes()) < 20_000 * 30 / sources.RATIO and not problems_of(good)


def test_a_pipe_or_a_device_is_no_data(tmp_path: Path):
    os.mkfifo(tmp_path / "train.jsonl")
    (problem,) = problems_of(tmp_path / "train.jsonl")
    assert "named pipe" in problem
    (problem,) = problems_of(Path("/dev/zero"))
    assert "device" in problem
    assert "no data file" in problems_of(tmp_path)[0]


@pytest.mark.parametrize(
    "row",
    ['"id": "\\ud800"', '"\\udfff": 1', '"more": [{"a": "x\\ude00"}]'],
)
def test_half_a_character_is_refused_in_any_column(row: str, tmp_path: Path):
    """It cannot be written, and would be found when a finished run writes its predictions."""
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "x", "label": "pos"}\n{"text": "y", "label": "neg", ' + row + "}\n")
    (problem,) = problems_of(file)
    assert "a.jsonl:2" in problem and "surrogate" in problem


def test_a_number_of_thousands_of_digits_is_text_like_any_other(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    digits = "9" * 5000
    rows = [{"text": digits, "label": "1"}, {"text": "x", "label": digits}, {"text": "y", "label": "-" + digits}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (problem,) = problems_of(file)
    assert "a.jsonl:3" in problem and "negative" not in problem.split("found")[0]


def test_half_a_character_that_another_format_lets_pass_is_refused_too(tmp_path: Path):
    """In any kind of column: JSON's own reader never lets one pass, a format from outside may."""
    columns = [Column("tokens", "words"), Column("answers", "answers", label=True), Column("messages", "messages")]
    whole = {"tokens": ["a"], "answers": {"text": ["x"], "answer_start": [0]},
             "messages": [{"role": "user", "content": "x"}]}  # fmt: skip
    for broken in (
        {"tokens": ["a\ud800"]},
        {"answers": {**whole["answers"], "more": "\udfff"}},
        {"messages": [{"role": "user", "content": "x", "name": "\ud83d"}]},
        {"id": ["\ud83d"]},
    ):
        log = FileLog("rows")
        renamed = {column.name: column.name for column in columns}
        batch = Batch([6, 7], [whole, {**whole, **broken}])
        read_batch = FileReader(DataFile(log, iter([batch])), columns, renamed).read(batch)
        assert [row.line for row in read_batch.rows()] == [6]
        assert [problem.where for problem in log.problems] == ["rows:7"] and "surrogate" in str(log.problems[0])


def test_a_parquet_bomb_is_refused_by_its_own_numbers(tmp_path: Path):
    """Twelve million rows in a tenth of a megabyte; and a table whose columns repeat is read."""
    table = pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([0] * 12_000_000, pa.int8()), ["x"])})
    pq.write_table(table, tmp_path / "bomb.parquet", compression="zstd")
    del table
    assert (tmp_path / "bomb.parquet").stat().st_size < 200_000
    (problem,) = problems_of(tmp_path / "bomb.parquet")
    assert "12000000 rows" in problem
    pq.write_table(pa.table({"text": ["x"] * 5000, "label": ["a"] * 5000}), tmp_path / "good.parquet")
    assert not problems_of(tmp_path / "good.parquet")


def test_a_list_of_terms_that_is_a_pipe_does_not_wait(tmp_path: Path):
    os.mkfifo(tmp_path / "terms.txt")
    with pytest.raises(UserError, match="named pipe"):
        read_terms(tmp_path / "terms.txt")
