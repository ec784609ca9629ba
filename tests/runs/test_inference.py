"""A trained model on new rows, by the library and by the command: the same numbers as its run, the rows unharmed."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import pytest

from keeltune import recipe
from keeltune.runs import inference, opened_model, run, run_folder
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers.command import keeltune
from tests.helpers.models import save_tiny
from tests.helpers.runs import lines, make_data, spec_of, stock_probabilities, write_rows

QUIET = Display(quiet=True)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> run_folder.Run:
    folder = make_data(tmp_path_factory.mktemp("apply"))
    return run.train(recipe.from_dict(spec_of("fine-tuning", tiny("bert")), folder), display=QUIET)


@pytest.fixture
def test_file(finished, tmp_path):
    return shutil.copy(finished.folder.parent / "test.jsonl", tmp_path / "test.jsonl")


def expected(finished) -> dict:
    result = finished.result
    return {
        "metrics": {k: v for k, v in result["metrics"]["test"].items() if k != "by_label"},
        "intervals": result["intervals"]["test"],
        "rows": 20,
    }


def test_evaluating_a_run_gives_its_own_numbers(finished, test_file):
    found = inference.evaluate(finished.folder, test_file, display=QUIET)
    assert found.keys() == {"metrics", "intervals", "rows"}
    own = expected(finished)
    assert found["rows"] == 20
    assert found["metrics"] == pytest.approx(own["metrics"], abs=1e-6)
    for name, pair in found["intervals"].items():
        assert pair == pytest.approx(own["intervals"][name], abs=1e-6)
    bare = inference.evaluate(finished.model, test_file, task="sentiment-analysis", display=QUIET)
    assert bare["metrics"] == pytest.approx(own["metrics"], abs=1e-6)


def test_a_runs_clusters_are_drawn_whole_when_it_is_evaluated_again(tiny, tmp_path):
    make_data(tmp_path)
    rows = [{**row, "speaker": str(i // 5)} for i, row in enumerate(lines(tmp_path / "test.jsonl"))]
    write_rows(tmp_path / "test.jsonl", rows)
    values = spec_of("fine-tuning", tiny("bert"), evaluation={"clusters": "speaker"})
    done = run.train(recipe.from_dict(values, tmp_path), display=QUIET)
    found = inference.evaluate(done.folder, tmp_path / "test.jsonl", display=QUIET)["intervals"]
    for name, pair in found.items():
        assert pair == pytest.approx(done.result["intervals"]["test"][name], abs=1e-6)
    alone = inference.evaluate(done.model, tmp_path / "test.jsonl", task="sentiment-analysis", display=QUIET)[
        "intervals"
    ]
    assert alone["loss"] != pytest.approx(found["loss"], abs=1e-6)


def test_a_column_that_the_answer_replaces_is_said(finished, tmp_path, capsys):
    write_rows(tmp_path / "in.jsonl", [{"text": "fine film", "prediction": "mine"}])
    (line,) = inference.predict(finished.folder, tmp_path / "in.jsonl")
    assert line["prediction"] in ("negative", "positive")
    assert "the input's own column prediction is replaced" in capsys.readouterr().err


def test_stdout_is_one_json_object(finished, test_file, monkeypatch, capsys):
    assert keeltune(monkeypatch, "evaluate", finished.folder, "--data", test_file, "--json") == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    found = json.loads(captured.out, parse_constant=pytest.fail)
    assert list(found) == ["metrics", "intervals", "rows"]
    assert found["metrics"] == pytest.approx(expected(finished)["metrics"], abs=1e-6)
    assert keeltune(monkeypatch, "evaluate", finished.folder, "--data", test_file) == 0
    assert f"{found['metrics']['accuracy']:.4f}" in capsys.readouterr().out


def test_other_column_names(finished, test_file, tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "other.jsonl", [{"body": r["text"], "stars": r["label"]} for r in lines(test_file)])
    mapping = {"text": "body", "label": "stars"}
    found = inference.evaluate(finished.folder, tmp_path / "other.jsonl", columns=mapping, display=QUIET)
    assert found["metrics"] == pytest.approx(expected(finished)["metrics"], abs=1e-6)
    call = ["evaluate", finished.folder, "--data", tmp_path / "other.jsonl", "--json"]
    assert keeltune(monkeypatch, *call, "--column", "text=body", "--column", "label=stars") == 0
    assert json.loads(capsys.readouterr().out) == found


def test_new_rows_may_have_our_names_where_the_run_s_file_had_its_own(finished):
    """What the run's recipe calls a column is of the run's file; a name that the call gives is meant."""
    opened = replace(opened_model.open_model(finished.folder, None), mapping={"text": "body"})
    inputs = [column for column in opened.columns if not column.label]
    for row in ({"text": "so good"}, {"body": "so good"}, {"body": "so good", "text": "so bad"}):
        rows, problems = opened_model.read_rows(opened, [row], inputs, None)
        assert [row.fields["text"] for row in rows] == ["so good"] and not problems
    assert opened_model.read_rows(opened, [{"text": "so good"}], inputs, {"text": "line"})[1]


def test_a_run_remembers_its_columns_and_its_label_map(tiny, finished, tmp_path):
    data = make_data(tmp_path)
    names = {"negative": "1", "positive": "5"}
    for split in ("train", "validation", "test"):
        rows = [{"body": r["text"], "stars": names[r["label"]]} for r in lines(data / f"{split}.jsonl")]
        write_rows(data / f"{split}.jsonl", rows)
    spec = spec_of("fine-tuning", tiny("bert"))
    spec["data"] |= {"columns": {"text": "body", "label": "stars"}, "labels": {"1": "negative", "5": "positive"}}
    mapped = run.train(recipe.from_dict(spec, data), display=QUIET)
    found = inference.evaluate(mapped.folder, data / "test.jsonl", display=QUIET)
    assert found["metrics"] == pytest.approx(expected(mapped)["metrics"], abs=1e-6)
    assert found["metrics"] == pytest.approx(expected(finished)["metrics"], abs=1e-6)  # only the names differ
    (line, *_) = inference.predict(mapped.folder, data / "test.jsonl", display=QUIET)
    assert {"body", "stars", "prediction", "probabilities"} == set(line)
    assert line["prediction"] in ("negative", "positive")


EXTRAS = [
    {"id": 7, "nested": {"a": [1, None]}, "label": "positive"},
    {"id": "x", "label": "a name that the model does not know"},
    {"id": None, "label": 3},
    {"id": 1.5},
    {"id": True, "label": None, "note": "é \u2028 “”"},
    {"id": 0, "label": ["positive"]},
    {"id": 0, "label": {"a": "dict"}},
]


@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: str(extra.get("label", "none")))
def test_predict_keeps_the_row(finished, tmp_path, extra):
    row = {"text": "the film is good", **extra}
    write_rows(tmp_path / "in.jsonl", [row])
    table = inference.predict(finished.folder, tmp_path / "in.jsonl", tmp_path / "out.jsonl", display=QUIET)
    (written,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").split("\n") if line]
    assert table == [written]
    probabilities = written.pop("probabilities")
    assert written.pop("prediction") == max(probabilities, key=probabilities.get)
    assert written == row
    (stock,) = stock_probabilities(finished.model, [row["text"]])
    assert list(probabilities.values()) == pytest.approx(stock.tolist(), abs=1e-5)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_tables(finished, test_file, tmp_path, suffix, monkeypatch, capsys):
    comma = "," if suffix == "csv" else "\t"
    rows = [{"id": str(i), "text": f'{r["text"]}, "so"', "label": r["label"]} for i, r in enumerate(lines(test_file))]
    with (tmp_path / f"in.{suffix}").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["id", "text", "label"], delimiter=comma)
        writer.writeheader()
        writer.writerows(rows)
    output = tmp_path / f"out.{suffix}"
    assert (
        keeltune(monkeypatch, "predict", finished.folder, "--input", tmp_path / f"in.{suffix}", "--output", output) == 0
    )
    assert capsys.readouterr().out == ""
    with output.open(newline="") as stream:
        written = list(csv.DictReader(stream, delimiter=comma))
    assert [{k: line[k] for k in ("id", "text", "label")} for line in written] == rows
    table = inference.predict(finished.folder, tmp_path / f"in.{suffix}", display=QUIET)
    assert [line["prediction"] for line in written] == [line["prediction"] for line in table]
    assert [json.loads(line["probabilities"]) for line in written] == [line["probabilities"] for line in table]


def test_a_bare_folder_needs_its_task(finished, test_file, monkeypatch, capsys):
    assert keeltune(monkeypatch, "evaluate", finished.model, "--data", test_file, "--json") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--task" in captured.err
    assert "sentiment-analysis" in captured.err
    with pytest.raises(UserError, match="sentiment-analysis"):
        inference.evaluate(finished.model, test_file, task="sentiment-analisys", display=QUIET)


def test_a_wrong_column_is_named(finished, test_file, monkeypatch, capsys):
    call = ["evaluate", finished.folder, "--data", test_file, "--json"]
    assert keeltune(monkeypatch, *call, "--column", "text=boddy") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "boddy" in captured.err
    assert "Traceback" not in captured.err
    assert keeltune(monkeypatch, *call, "--column", "text") == 2
    assert "ours=theirs" in capsys.readouterr().err


def test_what_cannot_be_scored_is_refused(finished, tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "bad.jsonl", [{"text": "fine", "label": "positive"}, {"text": "fine", "label": "neutral"}])
    with pytest.raises(UserError, match=r"bad\.jsonl:2") as refused:
        inference.evaluate(finished.folder, tmp_path / "bad.jsonl", display=QUIET)
    assert "neutral" in str(refused.value)
    write_rows(tmp_path / "empty.jsonl", [])
    with pytest.raises(UserError):
        inference.evaluate(finished.folder, tmp_path / "empty.jsonl", display=QUIET)
    with pytest.raises(UserError, match="nowhere"):
        inference.evaluate(finished.folder, tmp_path / "nowhere.jsonl", display=QUIET)


def test_an_output_of_another_kind_is_refused_before_anything_is_read(finished, test_file, tmp_path):
    with pytest.raises(UserError, match=r"\.xlsx"):
        inference.predict(tmp_path / "no-model", test_file, tmp_path / "out.xlsx", display=QUIET)
    write_rows(tmp_path / "bad.jsonl", [{"text": "fine"}, {"text": ""}])
    with pytest.raises(UserError, match=r"bad\.jsonl:2"):
        inference.predict(finished.folder, tmp_path / "bad.jsonl", tmp_path / "out.jsonl", display=QUIET)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_model_without_a_trained_head_is_refused(tmp_path, test_file):
    from transformers import AutoModel

    from keeltune.models import loading

    with loading.quiet_transformers():
        AutoModel.from_pretrained(save_tiny(tmp_path / "model")).save_pretrained(tmp_path / "body")
    for file in (tmp_path / "model").glob("token*"):
        shutil.copy(file, tmp_path / "body")
    with pytest.raises(UserError, match=r"classifier\.weight"):
        inference.predict(tmp_path / "body", test_file, task="sentiment-analysis", display=QUIET)
