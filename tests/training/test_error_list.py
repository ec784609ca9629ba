"""`errors.jsonl`: all bad rows where a message has no room for them, beside the recipe, in the words of the message."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from keeltune.cli.recipe_check import check_recipe
from keeltune.recipe import load
from keeltune.training.preparation.error_list import ERRORS, KEYS
from keeltune.utils.errors import UserError
from keeltune.utils.terminal import Terminal
from tests.helpers.command import keeltune
from tests.helpers.runs import lines, reviews, spec_of, write_rows

SECRET = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """A recipe in `r.yaml`, with 16 training rows that are well."""
    write_rows(tmp_path / "train.jsonl", [{**row, "id": f"s{i}"} for i, row in enumerate(reviews(16, seed=1))])
    write_rows(tmp_path / "validation.jsonl", reviews(8, seed=2))
    spec = spec_of("fine-tuning", tiny("bert"), data={"train": "train.jsonl", "validation": "validation.jsonl"})
    (tmp_path / "r.yaml").write_text(json.dumps(spec))
    return tmp_path


def spoil(folder: Path, empty: int, unknown: int) -> None:
    """Rows with an empty text, with a label that is none, and with a text where a token stands for a label."""
    rows = lines(folder / "train.jsonl")
    rows += [{"text": " ", "label": "positive", "id": f"e{i}"} for i in range(empty)]
    rows += [{"text": f"a film {i}", "label": f"postive-{i}", "id": f"u{i}"} for i in range(unknown)]
    write_rows(folder / "train.jsonl", [*rows, {"text": "", "label": SECRET, "id": "last"}])


def checked(folder: Path, *overrides: str) -> str:
    """What `check` says of the recipe; empty where it is well."""
    try:
        check_recipe(load(folder / "r.yaml", list(overrides)), Terminal())
    except UserError as error:
        return str(error)
    return ""


def test_more_rows_than_a_message_lists_are_in_a_file(folder):
    spoil(folder, 14, 2)
    said = checked(folder)
    file = folder / ERRORS
    assert f"… and 5 more of this kind (empty text); all are listed in {file}" in said
    listed = lines(file)
    assert all(tuple(line) == KEYS for line in listed)
    assert [line["row"] for line in listed if line["field"] == "text"] == [*range(17, 31), 33]
    assert {line["file"] for line in listed} == {str(folder / "train.jsonl")}
    assert [line["id"] for line in listed if line["field"] == "text"] == [*(f"e{i}" for i in range(14)), "last"]
    assert all(line["found"] and line["expected"] and line["fix"] in said for line in listed)
    assert SECRET not in file.read_text() + said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_rows_are_named_as_they_name_themselves(folder):
    spoil(folder, 0, 13)
    rows = lines(folder / "train.jsonl")[:-1]
    write_rows(folder / "train.jsonl", rows)
    (folder / "r.yaml").write_text(
        (folder / "r.yaml").read_text().replace('"train": "', '"labels": ["negative", "positive"], "train": "')
    )
    assert "unknown label" in checked(folder)
    listed = lines(folder / ERRORS)
    assert [line["row"] for line in listed] == [*range(17, 30)]
    assert [line["id"] for line in listed] == [f"u{i}" for i in range(13)]
    assert listed[3]["found"] == '"postive-3" (text); did you mean "positive"?'


def test_a_list_is_replaced_and_taken_away(folder):
    spoil(folder, 14, 0)
    checked(folder)
    rows = lines(folder / "train.jsonl")
    write_rows(folder / "train.jsonl", rows[:28])
    checked(folder)
    assert len(lines(folder / ERRORS)) == 12
    write_rows(folder / "train.jsonl", rows[:20])  # few enough for a message
    assert "all are listed" not in checked(folder)
    assert not (folder / ERRORS).exists()
    write_rows(folder / "train.jsonl", rows)
    checked(folder)
    assert (folder / ERRORS).exists()
    write_rows(folder / "train.jsonl", rows[:16])
    assert checked(folder) == ""
    assert not (folder / ERRORS).exists()


def test_skipped_rows_are_listed_too(folder, capsys):
    spoil(folder, 14, 0)
    assert checked(folder, "data.bad_rows=skip") == ""
    said = capsys.readouterr().out.replace("\n", "")
    assert f"… and 5 more of this kind (empty text); all are listed in {folder / ERRORS}" in said
    assert said.count("skipped: ") == 10
    assert len(lines(folder / ERRORS)) == 15


@pytest.mark.parametrize("content", ['{"text": "mine", "label": "positive"}\n', "", "[1]\n", "not JSON"])
def test_a_file_of_that_name_which_is_no_list_of_ours_is_let_be(folder, content):
    (folder / ERRORS).write_text(content)
    checked(folder)
    spoil(folder, 14, 0)
    assert "all are listed" not in checked(folder)
    assert (folder / ERRORS).read_text() == content


def test_training_writes_it_before_there_is_an_output(folder, monkeypatch, capsys):
    spoil(folder, 14, 0)
    assert keeltune(monkeypatch, "train", folder / "r.yaml") == 2
    assert f"all are listed in {folder / ERRORS}" in capsys.readouterr().err.replace("\n", "")
    assert len(lines(folder / ERRORS)) == 15
    assert not (folder / "out").exists()
