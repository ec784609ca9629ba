"""The command as a user meets it: exit status, one message a problem, no traceback, nothing loaded over bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keeltune.cli import app, train
from keeltune.cli.demo_data import make_reviews
from keeltune.models import loading
from keeltune.utils.errors import Diverged, OutOfResources, StateRefused, Stopped, UserError
from tests.bad_inputs.recipes import RECIPES
from tests.helpers.command import keeltune

VERBS = ["init", "train", "check", "show", "cache", "evaluate", "predict", "compare"]
VERBS += ["advise", "curve", "runs", "demo", "doctor", "schema", "verify", "push", "watch", "export"]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tiny, tmp_path, monkeypatch) -> Path:
    """A folder with a recipe that works, its data and its models, as the working folder."""
    rows = make_reviews("films", 60)
    write_rows(tmp_path / "train.jsonl", rows[:30])
    write_rows(tmp_path / "validation.jsonl", rows[30:45])
    write_rows(tmp_path / "test.jsonl", [{**row, "id": i} for i, row in enumerate(rows[45:])])
    shutil.copytree(tiny("bert"), tmp_path / "encoder")
    (tmp_path / "recipe.yaml").write_text(
        "task: sentiment-analysis\nmethod: fine-tuning\nmodel: encoder\noutput: run\n"
        "data: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}\n"
        "training: {epochs: 1, batch_size: 8, precision: fp32}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nothing_loads(monkeypatch):
    def loaded(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load", loaded)


@pytest.mark.parametrize("case", RECIPES[::20], ids=str)
def test_training_refuses_what_check_refuses(case, folder, monkeypatch, capsys, nothing_loads):
    (folder / "recipe.yaml").write_text(case.recipe, encoding="utf-8")
    assert keeltune(monkeypatch, "train", "recipe.yaml", *case.overrides) == 2
    said = capsys.readouterr().err
    for needle in case.needles:
        assert needle in said
    assert not (folder / "run").exists()


def test_all_problems_of_recipe_models_and_data_come_at_once(folder, monkeypatch, capsys, nothing_loads):
    (folder / "encoder" / "config.json").unlink()
    (folder / "validation.jsonl").write_text('{"text": "fine", "label": 0.5}\n')
    assert keeltune(monkeypatch, "check", "recipe.yaml", "data.test=tset.jsonl") == 2
    said = capsys.readouterr().err
    for needle in ("no config.json", "validation.jsonl:1", 'did you mean "test.jsonl"'):
        assert needle in said


def test_check_leaves_nothing_and_says_the_cost(folder, monkeypatch, capsys, nothing_loads):
    before = sorted(folder.rglob("*"))
    assert keeltune(monkeypatch, "check", "recipe.yaml") == 0
    said = capsys.readouterr().out
    assert "estimate: 3 steps of 8 rows" in said
    assert sorted(folder.rglob("*")) == before


def test_train_evaluate_predict_show(folder, monkeypatch, capsys):
    assert keeltune(monkeypatch, "train", "recipe.yaml", f"output=../{folder.name}/run") == 0
    *_, report, _, last = capsys.readouterr().out.splitlines()
    assert report == f"report: {folder.resolve() / 'run' / 'report.html'}"  # no way up in it
    assert last == 'try it: keeltune predict run --text "…"'
    assert keeltune(monkeypatch, "evaluate", "run", "--data", "test.jsonl", "--json") == 0
    scored = json.loads(capsys.readouterr().out)
    result = json.loads((folder / "run" / "result.json").read_text())
    assert set(scored) == {"metrics", "intervals", "rows"}
    assert scored["rows"] == 15
    for name, value in scored["metrics"].items():
        assert value == pytest.approx(result["metrics"]["test"][name], abs=1e-6)
    assert keeltune(monkeypatch, "predict", "run", "--input", "test.jsonl", "--output", "out.jsonl") == 0
    inputs, outputs = ([json.loads(x) for x in Path(f).read_text().splitlines()] for f in ("test.jsonl", "out.jsonl"))
    for given, made in zip(inputs, outputs, strict=True):
        assert given.items() <= made.items()
        assert made["prediction"] == max(made["probabilities"], key=made["probabilities"].get)
    capsys.readouterr()
    assert keeltune(monkeypatch, "show", "recipe.yaml", "--row", "3") == 0
    said = capsys.readouterr().out
    for part in ("input_ids", "Σ CE / n_CE", "positive"):
        assert part in said
    assert keeltune(monkeypatch, "train", "recipe.yaml", f"output=../{folder.name}/run") == 2  # the folder is in use
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [(UserError([]), 2), (StateRefused([]), 3), (Diverged("nan"), 4), (OutOfResources("disk"), 5), (Stopped("s"), 75),
     (KeyboardInterrupt(), 130)],
)  # fmt: skip
def test_exit_statuses(error, status, folder, monkeypatch, capsys):
    from keeltune.runs import run

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(run, "train", fails)
    assert keeltune(monkeypatch, "train", "recipe.yaml") == status
    assert "Traceback" not in capsys.readouterr().err


def test_a_diverging_run_ends_with_4_and_says_so(folder, monkeypatch, capsys):
    assert keeltune(monkeypatch, "train", "recipe.yaml", "training.learning_rate=1e30", "training.epochs=20") == 4
    said = capsys.readouterr().err
    assert "no update was made" in said
    assert json.loads((folder / "run" / "result.json").read_text())["status"] == "diverged"


def test_an_unknown_verb_or_option_ends_with_2(monkeypatch, capsys):
    assert keeltune(monkeypatch, "tarin") == 2
    assert keeltune(monkeypatch, "train", "recipe.yaml", "--resum") == 2


def test_the_verbs_are_these(monkeypatch, capsys):
    assert keeltune(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)
    verbs = app.Verbs()
    assert sorted(verbs) == sorted(VERBS)
    assert sorted(verbs[verb].callback.__name__ for verb in verbs) == sorted(VERBS)
    assert all(verbs[verb].help == verbs.summary(verb) for verb in verbs)


def test_windows_is_refused_in_one_sentence():
    ended = subprocess.run(
        [sys.executable, "-c", "import sys; sys.platform = 'win32'; import keeltune"], capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("ImportError: keeltune runs on Linux and macOS; on Windows, in WSL")


def test_help_imports_no_verb_and_nothing_heavy():
    script = (
        "import sys\nsys.argv = ['keeltune', '--help']\nfrom keeltune.cli.app import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "print(*(name for name in sys.modules if name.startswith('keeltune.cli.')), file=sys.stderr)\n"
        "assert not {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.split() == ["keeltune.cli.completion", "keeltune.cli.app"]
    assert all(verb in ended.stdout for verb in VERBS)


def test_doctor_and_schema(monkeypatch, capsys, tmp_path):
    assert keeltune(monkeypatch, "doctor") == 0
    assert "GFLOP/s" in capsys.readouterr().out
    assert keeltune(monkeypatch, "schema", "--output", tmp_path / "schema.json") == 0
    assert "objective" in json.loads((tmp_path / "schema.json").read_text())["properties"]


@pytest.mark.parametrize(
    ("task", "given"),
    [
        ("text-classification", '--text "…"'),
        ("question-answering", """--text '{"question": "…", "context": "…"}'"""),
        ("speech-recognition", "--input FILE"),
    ],
)
def test_train_says_how_a_row_is_given(task, given):
    assert train._given(task) == given
