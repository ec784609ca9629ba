"""Rows in memory and texts as they come: the same answers and the same runs as by files, whatever holds the rows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow
import pytest

import keeltune as kt
from keeltune.data import memory
from keeltune.utils.errors import StateRefused, UserError
from keeltune.utils.progress import Display
from tests.helpers import runs
from tests.helpers.command import keeltune

QUIET = Display(quiet=True)
ROWS = [{"text": "a fine film", "id": 1}, {"text": "a dull plot", "id": None}]


class Polars:
    """What is asked of a polars frame, a library that the tests do not install."""

    def iter_rows(self, *, named: bool):
        assert named
        yield from ROWS


HOLDERS = {
    "mappings": ROWS,
    "pandas": pandas.DataFrame(ROWS),
    "pyarrow": pyarrow.Table.from_pylist(ROWS),
    "datasets": datasets.Dataset.from_list(ROWS),
    "polars": Polars(),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_the_same_rows_whatever_holds_them(holder):
    found = list(memory.records_of(HOLDERS[holder], "the rows given"))
    assert found == ROWS
    assert found[1]["id"] is None


@pytest.mark.parametrize("rows", [3, [1, 2], ["a", "b"], b"text", {"train": datasets.Dataset.from_list(ROWS)}])
def test_what_is_no_rows_is_refused(rows):
    with pytest.raises(UserError, match=r"rows such as|a list of mappings"):
        list(memory.records_of(rows, "the rows given"))


def in_memory(folder: Path, **parts: Any) -> dict[str, Any]:
    return {name: runs.lines(folder / f"{name}.jsonl") for name in ("train", "validation", "test")} | parts


def spec(tiny, folder: Path, **data: Any) -> dict[str, Any]:
    return runs.spec_of("fine-tuning", tiny("bert"), data=in_memory(folder, **data))


def test_a_run_on_rows_in_memory_is_the_run_on_their_files(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(runs.make_data(tmp_path))
    by_file = runs.train(runs.spec_of("fine-tuning", tiny("bert")), tmp_path)
    frame = pandas.DataFrame(runs.lines(tmp_path / "train.jsonl"))
    held = kt.train(spec(tiny, tmp_path, train=frame) | {"output": "held"}, display=QUIET)
    assert runs.furthest(by_file, held) == 0.0
    assert held.result["metrics"] == by_file.result["metrics"]
    assert held.result["data"]["train"]["fingerprint"] == by_file.result["data"]["train"]["fingerprint"]

    again = kt.train(spec(tiny, tmp_path) | {"output": "held"}, resume=True, display=QUIET)  # the same rows, as a list
    assert again.result["metrics"] == held.result["metrics"]
    fewer = spec(tiny, tmp_path, train=runs.lines(tmp_path / "train.jsonl")[1:]) | {"output": "held"}
    with pytest.raises(StateRefused):
        kt.train(fewer, resume=True, display=QUIET)


def test_a_row_that_no_file_can_hold_is_named(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(runs.make_data(tmp_path))
    with pytest.raises(UserError, match=r"(?s)data.train.*row 2: .*object") as refused:
        kt.train(spec(tiny, tmp_path, train=[{"text": "fine", "label": "positive"}, {"text": object()}]), display=QUIET)
    assert not (tmp_path / "out").exists()
    assert refused.value.problems[0].field == "data.train"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny):
    folder = runs.make_data(tmp_path_factory.mktemp("run"))
    return runs.train(runs.spec_of("fine-tuning", tiny("bert")), folder)


def test_a_loaded_model_answers_as_predict_does(trained, tmp_path):
    rows = runs.lines(trained.folder.parent / "test.jsonl")[:5]
    texts = [row["text"] for row in rows]
    runs.write_rows(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    expected = kt.predict(trained.folder, tmp_path / "in.jsonl", display=QUIET)
    model = kt.load(trained.folder)
    assert model(texts) == expected == kt.predict(trained.folder, [{"text": text} for text in texts], display=QUIET)
    alone = model(texts[0])
    assert alone["prediction"] == expected[0]["prediction"]
    assert alone["probabilities"] == pytest.approx(expected[0]["probabilities"], abs=1e-6)
    assert model({"text": texts[0], "note": "kept"})["note"] == "kept"
    assert model([]) == []
    scores = kt.evaluate(trained.folder, pandas.DataFrame(rows), display=QUIET)
    runs.write_rows(tmp_path / "rows.jsonl", rows)
    assert scores == kt.evaluate(trained.folder, tmp_path / "rows.jsonl", display=QUIET)


def test_a_text_alone_is_no_row_of_two_columns(trained):
    from keeltune.data.columns import Column
    from keeltune.runs.loaded_model import only_column

    class Two:
        columns = [Column("question"), Column("context"), Column("answers", label=True)]

    with pytest.raises(UserError, match=r'give it as {"question": "…", "context": "…"}'):
        only_column(Two())


def test_texts_by_the_command_and_by_a_pipe(trained, monkeypatch, capsys, tmp_path):
    assert keeltune(monkeypatch, "predict", trained.folder, "--text", "a fine film", "--text", "bad") == 0
    typed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in typed] == ["a fine film", "bad"]
    monkeypatch.setattr("sys.stdin", io.StringIO('a fine film\n\n{"text": "bad", "id": "\u202e7"}\n'))
    assert keeltune(monkeypatch, "predict", trained.folder, "--input", "-") == 0
    said = capsys.readouterr().out
    piped = [json.loads(line) for line in said.splitlines()]
    assert "\u202e" not in said
    assert piped[1]["id"] == "\u202e7"
    assert [line["prediction"] for line in piped] == [line["prediction"] for line in typed]
    out = tmp_path / "out.jsonl"
    assert keeltune(monkeypatch, "predict", trained.folder, "--text", "bad", "--output", out) == 0
    assert runs.lines(out)[0]["prediction"] == typed[1]["prediction"]
    assert keeltune(monkeypatch, "predict", trained.folder, "--text", '{"text": "bad"}') == 0  # a row, as JSON
    for wrong in ((), ("--text", "a", "--input", "-")):
        assert keeltune(monkeypatch, "predict", trained.folder, *wrong) == 2
        assert "one of them" in capsys.readouterr().err
