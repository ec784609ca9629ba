"""What a run writes: where it may, for its owner alone to change, and nothing that drives what it is opened with."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from keeltune import recipe
from keeltune.reports import charts, model_card, templating
from keeltune.reports.localization import translator
from keeltune.runs import inference, output_folder, prediction_file, run
from keeltune.utils import files
from keeltune.utils.errors import UserError
from tests.helpers.command import keeltune
from tests.helpers.runs import QUIET, make_data, spec_of, train


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory) -> Path:
    """A folder with a finished run, made under a umask that allows everything, as a project of /…/home/alice."""
    home = tmp_path_factory.mktemp("home") / "alice"
    (home / "project").mkdir(parents=True)
    folder = make_data(home / "project")
    shutil.copytree(tiny("bert"), folder / "encoder")
    before = os.umask(0)
    taught = {"reference": {"model": "encoder", "from": "cached"}, "output": "runs/taught"}
    try:
        train(spec_of("fine-tuning", Path("encoder"), output="runs/one"), folder)
        rows = (folder / "train.jsonl").read_text() + json.dumps({"text": " ", "label": "positive"}) + "\n"
        (folder / "faulty.jsonl").write_text(rows)
        data = {"train": "faulty.jsonl", "validation": "validation.jsonl", "bad_rows": "skip"}
        training = {"lora": {"rank": 2}, "epochs": 1, "batch_size": 8, "precision": "fp32", "keep_checkpoints": True}
        train(spec_of("distillation", Path("encoder"), data=data, training=training, **taught), folder)
        inference.predict(folder / "runs/one", folder / "test.jsonl", folder / "answers/test.jsonl", display=QUIET)
    finally:
        os.umask(before)
    return folder


def test_nobody_else_may_read_or_write_what_a_run_wrote(made):
    """Files 0600 and folders 0700: rows of the data lie in predictions, caches and logs."""
    written = [path for name in ("runs", ".cache", "answers") for path in (made / name, *(made / name).rglob("*"))]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in written}
    assert {path: oct(mode) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}
    assert len(written) > 60


@pytest.mark.parametrize("name", ["one", "taught"])
def test_no_path_of_the_machine_is_in_what_is_shared(name, made):
    endings = (".json", ".html", ".md", ".yaml", ".jsonl")
    written = [path for path in (made / "runs" / name).rglob("*") if path.suffix in endings]
    written = [path for path in written if not {"adapter", "checkpoints"} & {*path.parts}]  # peft finds a base by them
    assert len(written) > 8
    assert [path for path in written if "alice" in path.read_text("utf-8")] == []


def test_the_recipe_of_a_run_makes_it_again_wherever_both_lie(made, tmp_path):
    shutil.copytree(made, tmp_path / "elsewhere")
    copied = tmp_path / "elsewhere" / "runs" / "one" / "recipe.yaml"
    again = recipe.load(copied)
    assert again.path(again.data.train).resolve() == (tmp_path / "elsewhere" / "train.jsonl").resolve()
    done = run.train(recipe.load(copied, ["output=../again"]), display=QUIET)
    first = json.loads((copied.parent / "result.json").read_text())
    assert done.result["metrics"] == first["metrics"]
    assert done.folder.resolve() == (tmp_path / "elsewhere" / "runs" / "again").resolve()


def test_paths_under_a_link_are_found_again(made, tmp_path):
    (tmp_path / "link").symlink_to(made / "runs")
    loaded = recipe.load(tmp_path / "link" / "one" / "recipe.yaml")
    assert loaded.path(loaded.data.train).is_file()
    assert "train.jsonl" in loaded.dump()
    assert ".." not in loaded.dump()


@pytest.fixture
def folder(made, tmp_path, monkeypatch) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    (tmp_path / "copy" / "recipe.yaml").write_text(
        "task: sentiment-analysis\nmethod: fine-tuning\nmodel: encoder\noutput: runs/one\n"
        "data: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}\n"
        "training: {epochs: 1, batch_size: 8, precision: fp32}\n"
    )
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    "output",
    ["x" * 300, "a/" * 2100 + "b", "file", "file/below", "/proc/run", "/dev/null", "/dev/null/run", "encoder",
     "encoder/run", ".", "train.jsonl"],
)  # fmt: skip
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(output, folder, monkeypatch, capsys):
    (folder / "file").write_text("precious")
    for verb in ("check", "train"):
        assert keeltune(monkeypatch, verb, "recipe.yaml", f"output={output}") == 2
        said = capsys.readouterr().err
        assert "output" in said
        assert "reading data" not in said
    assert (folder / "file").read_text() == "precious"


def test_trying_to_write_leaves_nothing(tmp_path):
    files.try_writing(tmp_path / "a" / "b")
    files.try_writing(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_let_files_be_renamed_is_refused(tmp_path, monkeypatch):
    def fails(*args):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(UserError, match="read-only file system"):
        output_folder.refuse_unwritable(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model", "checkpoints", "predictions", "log.jsonl", "result.json", "seed-0"])
def test_a_link_in_a_run_folder_is_not_followed(name, folder, monkeypatch, capsys):
    (folder / "precious").mkdir()
    for file in ("recipe.yaml", "x"):
        (folder / "precious" / file).write_text("precious")
    link = folder / "runs" / "one" / name
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.symlink_to(folder / "precious" / ("x" if "." in name else ""))
    assert keeltune(monkeypatch, "train", "recipe.yaml", "--resume") == 2
    assert f'links: "{name}"' in capsys.readouterr().err
    assert keeltune(monkeypatch, "train", "recipe.yaml", "--overwrite") == 0
    assert {p.name: p.read_text() for p in (folder / "precious").iterdir()} == {
        "recipe.yaml": "precious",
        "x": "precious",
    }
    assert not link.is_symlink()


def test_a_run_folder_that_is_a_link_is_not_emptied(folder, monkeypatch, capsys):
    (folder / "runs" / "one").rename(folder / "real")
    (folder / "runs" / "one").symlink_to(folder / "real")
    assert keeltune(monkeypatch, "train", "recipe.yaml", "--overwrite") == 2
    assert "a link to" in capsys.readouterr().err
    assert (folder / "real" / "result.json").is_file()


CELLS = {"=1+1": "'=1+1", "+1+1": "'+1+1", "-2+3": "'-2+3", "@SUM(A1)": "'@SUM(A1)", "\t=1": "'\t=1", "\r=1": "'\r=1",
         " =1": "' =1", "\n=1": "'\n=1", "=cmd|' /C calc'!A0": "'=cmd|' /C calc'!A0", "＝1": "'＝1", "-": "'-",
         "-5": "-5", "+1.5e-3": "+1.5e-3", "-.5": "-.5", "a=b": "a=b", "": "", "'": "'", "5-3": "5-3"}  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_no_cell_is_a_formula(ending, tmp_path):
    file = tmp_path / f"p.{ending}"
    prediction_file.write(file, [{"=name": text, "n": -5, "x": -0.5, "p": {"=a": 1}} for text in CELLS])
    with file.open(newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream, delimiter="\t" if ending == "tsv" else ",")
    assert head == ["'=name", "n", "x", "p"]
    assert [row[0] for row in rows] == list(CELLS.values())
    assert all(row[1:] == ["-5", "-0.5", '{"=a": 1}'] for row in rows)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_no_text_keeps_predictions_from_being_written(ending, tmp_path):
    file = tmp_path / f"p.{ending}"
    prediction_file.write(file, [{"text": "a\ud800b", "\udfff": ["\udc00", {"\ud83d": 1}], "prediction": "x"}])
    text = file.read_text("utf-8")
    assert "a\\ud800b" in text
    if ending == "jsonl":
        assert json.loads(text)["text"] == "a\ud800b"


@pytest.mark.parametrize(
    ("output", "found"),
    [("test.jsonl", "the input"), ("./copy/../test.jsonl", "the input"), ("hard.jsonl", "the input"),
     ("link.jsonl", "the input"), ("other.jsonl", "a file that is there"), ("folder.jsonl", "a folder"),
     ("pipe.jsonl", "device"), ("x" * 300 + ".jsonl", "too long"), ("other.jsonl/p.csv", "file exists"),
     ("/proc/p.jsonl", "no such file"), ("runs/one/predictions/test.jsonl", "model's folder"), ("p.txt", ".txt")],
)  # fmt: skip
def test_predictions_take_the_place_of_nothing(output, found, folder, monkeypatch, capsys):
    (folder / "copy").mkdir()
    (folder / "hard.jsonl").hardlink_to(folder / "test.jsonl")
    (folder / "link.jsonl").symlink_to(folder / "test.jsonl")
    (folder / "other.jsonl").write_text("precious")
    (folder / "folder.jsonl").mkdir()
    os.mkfifo(folder / "pipe.jsonl")
    before = (folder / "test.jsonl").read_bytes()
    arguments = ["predict", "runs/one", "--input", "test.jsonl", "--output", output]
    assert keeltune(monkeypatch, *arguments) == 2
    assert found in capsys.readouterr().err
    if found != "a file that is there":
        assert keeltune(monkeypatch, *arguments, "--overwrite") == 2
    else:
        assert keeltune(monkeypatch, *arguments, "--overwrite") == 0
        assert len((folder / output).read_text().splitlines()) == len(before.splitlines())
    assert (folder / "test.jsonl").read_bytes() == before


def test_predictions_do_not_join_the_folder_that_they_are_made_of(folder, monkeypatch, capsys):
    (folder / "rows").mkdir()
    shutil.copy(folder / "test.jsonl", folder / "rows")
    assert keeltune(monkeypatch, "predict", "runs/one", "--input", "rows", "--output", "rows/p.jsonl") == 2
    assert "in its folder" in capsys.readouterr().err


SECRET = "hf_SECRETSECRETSECRET"


@pytest.mark.parametrize(
    "field",
    [f"prompt={SECRET}", f"training.hub_token={SECRET}", f"reference={{model: encoder, api_key: {SECRET}}}",
     "output=http://user:SECRET@host/x", "model=http://user:SECRET@host/x", f"hub_token={SECRET}", f"data.x: {SECRET}",
     f"training.learning_rate={SECRET}", "data.train=https://user:SECRET@host/x.jsonl",
     "model={new: {model_type: bert, token: SECRET}, tokenizer: encoder}"],
)  # fmt: skip
@pytest.mark.parametrize("flags", [[], ["--debug"]])
def test_no_secret_is_printed_or_stored(field, flags, folder, monkeypatch, capsys):
    assert keeltune(monkeypatch, *flags, "train", "recipe.yaml", "output=runs/two", field) == 2
    said = capsys.readouterr()
    assert "SECRET" not in said.err + said.out
    assert not (folder / "runs" / "two").exists()


@pytest.mark.parametrize("verb", [("compare", "runs/one", "runs/one"), ("schema",)])
def test_a_page_takes_no_other_files_place(verb, folder, monkeypatch, capsys):
    for name in ("test.csv", "runs/one/recipe.yaml"):
        (folder / "test.csv").write_text("precious")
        before = (folder / name).read_bytes()
        assert keeltune(monkeypatch, *verb, "--output", name) == 2
        assert (folder / name).read_bytes() == before
    for _ in range(2):
        assert keeltune(monkeypatch, *verb, "--output", "new.html") == 0


@pytest.mark.parametrize("text", ['prompt: "a\\ud800"', '"\\ud800": 1', "training: {seed: ['\\ud800', \"\\udfff\"]}"])
def test_half_a_character_in_a_recipe_is_a_problem_of_its_line(text, folder, monkeypatch, capsys):
    (folder / "half.yaml").write_text((folder / "recipe.yaml").read_text() + text + "\n")
    assert keeltune(monkeypatch, "check", "half.yaml") == 2
    assert "half.yaml:7" in capsys.readouterr().err
    with pytest.raises(UserError):
        recipe.from_dict({"\ud800": 1, "task": "\ud800"}, folder)


def test_a_pattern_without_end_is_a_fault_of_the_tokenizer(folder, monkeypatch, capfd):
    file = folder / "encoder" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    file.write_text(json.dumps(tokenizer))
    rows = [{"text": "a" * 40 + "b", "label": "positive"}, {"text": "good", "label": "negative"}] * 8
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert keeltune(monkeypatch, "check", "recipe.yaml") == 2
    assert "retry-limit-in-match" in capfd.readouterr().err


def test_no_file_of_the_working_folder_stands_for_a_library(folder):
    for name in ("transformers", "torch", "ruamel", "rich", "typer", "pydantic", "orjson", "numpy", "readline"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'canary')!r}, 'a').write({name!r})\n")
    ended = subprocess.run(
        [sys.executable, "-m", "keeltune", "schema"], capture_output=True, text=True, cwd=folder, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert not (folder / "canary").exists()


PAYLOADS = ["<script>alert(1)</script>", '"onerror="x', "javascript:alert(1)", "](javascript:x)", "\u202etxt.exe",
            "a\u200bb", "a|b", "![x](http://evil)", "a\n# b", "\x1b[31m", "<!-- x", "{{ 7*7 }}"]  # fmt: skip


@pytest.mark.parametrize("text", PAYLOADS)
def test_nothing_in_a_page_or_card_is_of_the_users_making(text):
    card = model_card.markdown(text)
    assert "\n" not in card
    assert not re.search(r"(?<!\\)[\[\]|<!`]", card)
    page = templating.environment(translator("en")).from_string("<p>{{ t }}</p>").render(t=text)
    drawn = charts.ranges([(text, 0.5, 0.1, 0.9)], text)
    for shown in (page, drawn, card):
        assert not re.search("<script|[\u202e\u200b\x1b]|<!--", shown)


def test_joiners_of_real_scripts_stay_on_a_page():
    page = templating.environment(translator("en")).from_string("{{ t }}").render(t="می\u200cخواهم 👩\u200d💻")
    assert page == "می\u200cخواهم 👩\u200d💻"
