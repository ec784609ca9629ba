"""A run folder from somebody else: whatever it holds is refused by the name of file and field, or does nothing."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest

from keeltune.models import model_files, sealed_model
from keeltune.recipe.yaml_text import yaml_of
from keeltune.runs import history, run_folder
from keeltune.utils.errors import UserError
from tests.helpers.command import keeltune
from tests.helpers.runs import make_data, spec_of, train


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory) -> Path:
    """A folder with a finished run and its data; without digests, as whoever makes one up writes none, or fitting
    ones."""
    folder = make_data(tmp_path_factory.mktemp("made"))
    done = train(spec_of("fine-tuning", tiny("bert")), folder)
    (done.model / sealed_model.MANIFEST).unlink()
    (done.folder / "result.json").write_text(json.dumps({**done.result, "digests": None}))
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch) -> Path:
    """A copy of it, as the working folder."""
    shutil.copytree(made, tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")
    return tmp_path / "made"


REMOVED = object()

SHAPES = {
    "metrics": [[1], "x", 5, REMOVED],
    "metrics.test": ["x", [1]],
    "metrics.test.accuracy": ["high", [1], math.nan, math.inf, True],
    "intervals": [5, REMOVED],
    "intervals.test": [[0], {"accuracy": 1}],
    "intervals.test.accuracy": [[1], [0, 1, 2], ["a", "b"], [0, math.nan]],
    "data": [[], 5, None, REMOVED],
    "data.test": [7, {}, {"rows": "many", "fingerprint": "x"}],
    "objective": [None, "x", REMOVED],
    "objective.weight": ["w", [1]],
    "training": [None, REMOVED],
    "training.seconds": ["long", None],
    "task": [None, 5, REMOVED],
    "method": [["x"], None, REMOVED],
    "status": [["completed"], 5],
    "interpolation": [[1], {"points": 5}, {"metric": "accuracy", "points": [{"share": 1}]},
                      {"metric": "accuracy", "points": [{"share": 1, "target": {}, "source": {}}]}],
    "budget": [5, {"share": "all"}],
    "bias": [5, {"slices": 5}, {"slices": {"x": {"groups": {"a": 1}}}}],
    "calibration": [5, {"test": 5}, {"validation": {"ece": 0.1, "temperature": "hot"}}],
    "environment": ["e", {"finished": 5}],
    "seeds": ["x", {"numbers": "x"}, {"folders": 5}, {"numbers": [0], "folders": ["../.."], "best": "../.."},
              {"numbers": [0], "folders": ["/etc"], "best": "/etc"}, {"numbers": [0], "folders": [], "best": "seed-0"}],
}  # fmt: skip


@pytest.mark.parametrize(("field", "number"), [(f, n) for f, values in SHAPES.items() for n in range(len(values))])
def test_a_result_of_another_shape_is_refused_by_its_field(field, number, folder):
    file, value = folder / "out" / "result.json", SHAPES[field][number]
    result = holder = json.loads(file.read_text())
    *above, name = field.split(".")
    for step in above:
        holder = holder[step]
    if value is REMOVED:
        del holder[name]
    else:
        holder[name] = value
    file.write_text(json.dumps(result))
    with pytest.raises(UserError) as caught:
        run_folder.finished(folder / "out")
    assert str(file) in caught.value.problems[0].where
    if not any(isinstance(value, float) and not math.isfinite(value) for value in [value, *_flat(value)]):
        assert any(problem.field.startswith(field) for problem in caught.value.problems)
    (listed,) = history.runs(folder)
    assert listed["status"] == "unreadable"
    assert "result.json" in listed["fault"]


def _flat(value: object) -> list[object]:
    return value if isinstance(value, list) else []


TEXTS = {"brackets": "[" * 100_000, "objects": '{"a":' * 100_000, "digits": '{"status": ' + "9" * 5000 + "}",
         "binary": "\0\1", "empty": "", "a list": "[]", "half a character": '{"task": "\\ud800"}'}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", ["result.json", "predictions/test.jsonl", "model/config.json"])
def test_what_is_no_file_of_ours_ends_with_2(name, text, folder, monkeypatch, capsys):
    (folder / "out" / name).write_text(text)
    assert keeltune(monkeypatch, "compare", "out", "out") == 2
    said = capsys.readouterr().err
    assert Path(name).name in said
    assert "Traceback" not in said
    assert len(said) < 2000


def test_a_broken_count_of_looks_is_passed_over(folder):
    for text in TEXTS.values():
        (folder / "out" / "looks.jsonl").write_text(text)
        assert history.runs(folder)[0]["status"] == "completed"


@pytest.mark.parametrize("name", ["result.json", "recipe.yaml", "predictions/test.jsonl", "looks.jsonl"])
def test_a_named_pipe_is_not_waited_for(name, folder, monkeypatch, capsys):
    (folder / "out" / name).unlink()
    os.mkfifo(folder / "out" / name)
    assert keeltune(monkeypatch, "compare", "out", "out") == (0 if name == "looks.jsonl" else 2)
    assert keeltune(monkeypatch, "runs", ".") == 0


def test_other_lines_or_fewer_are_refused(folder, monkeypatch, capsys):
    file = folder / "out" / "predictions" / "test.jsonl"
    sound = [json.loads(line) for line in file.read_text().splitlines()]
    for lines in (sound[:-1], [], [{**sound[0], "score": "x"}, *sound[1:]], [{**sound[0], "score": None}, *sound[1:]],
                  [{k: v for k, v in line.items() if k != "gold"} for line in sound], [[]] * len(sound),
                  [{**line, "gold": {"a": 1}} for line in sound]):  # fmt: skip
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert keeltune(monkeypatch, "compare", "out", "out") == 2
        assert "test.jsonl" in capsys.readouterr().err


def test_a_seeds_folder_leads_nowhere_else(folder):
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text("{}")
    result = json.loads((folder / "out" / "result.json").read_text())
    result["seeds"] = {"numbers": [0], "folders": ["../other"], "best": "../other"}
    (folder / "out" / "result.json").write_text(json.dumps(result))
    assert model_files.locate(str(folder / "out"), Path, "here", "model") == str(folder / "out" / "model")


CODE = {
    "task": "evil:Name", "objective.divergence": "evil:Name", "evaluation.metrics": ["evil:Name"],
    "report.sections": ["evil:Name"], "data.format": "evil:Name", "training.regularizers": {"evil:Name": {}},
    "objective.matching": {"evil:Name": 1.0}, "reference": {"model": "encoder", "from": "evil:Name"},
}  # fmt: skip
VERBS = [("compare", "out", "out"), ("runs", "."), ("evaluate", "out", "--data", "test.jsonl"),
         ("predict", "out", "--input", "test.jsonl", "--output", "p.jsonl")]  # fmt: skip


@pytest.mark.parametrize("field", CODE)
def test_no_verb_runs_code_that_a_folders_recipe_names(field, folder, monkeypatch, capsys):
    from ruamel.yaml import YAML

    canary = folder / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Name: pass\n")
    values = holder = YAML(typ="safe").load((folder / "out" / "recipe.yaml").read_text())
    *above, name = field.split(".")
    for step in above:
        holder = holder.setdefault(step, {})
    holder[name] = CODE[field]
    (folder / "out" / "recipe.yaml").write_text(yaml_of(values))
    for arguments in VERBS:
        assert keeltune(monkeypatch, *arguments) in (0, 2)
    assert not canary.exists()
    assert "Traceback" not in capsys.readouterr().err
