"""The notebook runs from its first cell to its last, the image is made of what is there, and the examples have data."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from keeltune import recipe
from keeltune.cli import demo
from keeltune.data import reading
from keeltune.data.sources import DataSource
from keeltune.training.preparation.splits import sound_rows
from keeltune.utils import registry
from tests.helpers.command import keeltune

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
RECIPES = sorted((ROOT / "examples").glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# Notebooks


@pytest.mark.slow  # a training
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(notebook, tiny, tmp_path, monkeypatch, capsys):
    """As it stands, with a small encoder; a line that begins with `!` is the command, as in Jupyter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "encoder_path", lambda: str(tiny("bert")))
    names: dict[str, Any] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [] and cell["execution_count"] is None, "clear the outputs"
        for part in re.split(r"^(!.*)\n?", "".join(cell["source"]), flags=re.MULTILINE):
            if part.startswith("!keeltune "):
                assert keeltune(monkeypatch, *shlex.split(part.format(**names))[1:]) == 0
            else:
                exec(compile(part, str(notebook), "exec"), names)
    said = capsys.readouterr().out
    assert re.search(r"^accuracy +[\d.]+ +95 % interval", said, re.MULTILINE)
    assert re.search(r"^(positive|negative) \{", said, re.MULTILINE)
    assert names["run"].result["status"] == "completed"


def test_there_is_a_notebook_of_the_form_that_jupyter_reads():
    assert NOTEBOOKS
    for notebook in NOTEBOOKS:
        held = json.loads(notebook.read_text(encoding="utf-8"))
        assert (held["nbformat"], held["metadata"]["kernelspec"]["name"]) == (4, "python3")
        assert len({cell["id"] for cell in held["cells"]}) == len(held["cells"])
        assert {cell["cell_type"] for cell in held["cells"]} == {"markdown", "code"}


# The image


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each line joined with those that go on with it."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def constrained() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_image_is_made_of_files_that_are_there_and_let_through():
    known = ("FROM", "ARG", "WORKDIR", "COPY", "RUN", "USER", "ENV", "ENTRYPOINT", "CMD")
    assert {name for name, _ in instructions()} <= set(known)
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[:1] == "!"}
    copied = [source for name, value in instructions() if name == "COPY" for source in value.split()[:-1]]
    assert set(copied) == let_through
    for source in copied:
        assert (ROOT / source).exists(), source
    assert {PROJECT["readme"], "LICENSE", "pyproject.toml", "src"} <= set(copied)  # what the package is built of


def test_the_image_has_the_versions_and_extras_of_the_project():
    ((_, base),) = [one for one in instructions() if one[0] == "FROM"]
    version = re.fullmatch(r"python:(3\.\d+)-slim", base)[1]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    first, package = [value for name, value in instructions() if name == "RUN" and "pip install" in value]
    assert "-c constraints.txt" in first and first.endswith(" torch") and '--index-url "$TORCH_INDEX"' in first
    (default,) = [value for name, value in instructions() if name == "ARG"]
    assert default.startswith("TORCH_INDEX=https://") and default.endswith("/cpu")
    assert "-c constraints.txt" in package
    extras = re.search(r"'\.\[([\w,-]+)\]'", package)[1].split(",")
    optional = PROJECT["optional-dependencies"]
    assert set(extras) <= set(optional) - {"dev", "docs"}
    fixed = {canonicalize_name(name): found for name, found in constrained().items()}
    asked = [*PROJECT["dependencies"], *(line for extra in extras for line in optional[extra])]
    for requirement in map(Requirement, asked):
        found = fixed.get(canonicalize_name(requirement.name))
        assert found is None or requirement.specifier.contains(found, prereleases=True), requirement
    assert {"torch", "transformers", "pydantic", "typer"} <= set(fixed)


def test_the_image_runs_the_command_and_not_as_root():
    order = [name for name, _ in instructions()]
    said = dict(instructions())
    assert said["USER"] not in ("root", "0")
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert "RUN" not in order[order.index("USER") :]
    (command,) = json.loads(said["ENTRYPOINT"])
    assert command in PROJECT["scripts"]
    assert json.loads(said["CMD"]) == ["--help"]


# Data of the examples


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("examples") / "data"
    write(folder)
    return folder


def write(folder: Path) -> None:
    """What `python examples/make_data` writes, of the small sets fewer rows."""
    for file in sorted((ROOT / "examples" / "make_data").glob("[!_]*.py")):
        module(file).write(folder, **({"rows": 12} if file.stem == "small_sets" else {}))


def module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"made_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_script_makes_every_file_that_a_recipe_names_and_the_same_twice(made, tmp_path, capsys):
    texts = [path.read_text(encoding="utf-8") for path in RECIPES]
    named = {name for text in texts for name in re.findall(r"data/([\w-]+/[\w-]+\.\w+)", text)}
    assert {name for name in named if not (made / name).is_file()} == set()
    again = tmp_path / "again"
    write(again)
    files = [path for path in made.rglob("*") if path.is_file()]
    assert all(path.read_bytes() == (again / path.relative_to(made)).read_bytes() for path in files)
    module(ROOT / "examples" / "make_data" / "__main__.py").main(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {path.name for path in made.iterdir()}
    assert "data sets in" in capsys.readouterr().out


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipes_rows_are_what_its_task_reads(path, made):
    loaded = recipe.load(path)
    data, old = loaded.data, loaded.data.source
    asked = [(name, loaded.task, True) for name in (data.train, data.validation, data.test, old.train, old.validation)]
    asked += [(name, loaded.task, False) for name in (data.unlabeled, old.unlabeled)]
    named = old.test if isinstance(old.test, list) else []
    asked += [(one.data, one.task or loaded.task, True) for one in named] or [(old.test, loaded.task, True)]
    for name, task_name, labelled in asked:
        if not isinstance(name, str):
            continue
        task = registry.find("tasks", task_name)
        file = made / name.removeprefix("data/")
        rows, problems = reading.read(DataSource(str(file)), task.columns, data.columns, labelled=labelled)
        rows, faulty = sound_rows(task, rows, labelled=labelled)
        assert [str(problem) for problem in (*problems, *faulty)] == []
        assert len(rows) >= 4


def test_the_splits_of_a_set_share_no_row(made):
    small = module(ROOT / "examples" / "make_data" / "small_sets.py")
    for name in ("films", "appliances", *small.SETS):
        lines = [line for file in (made / name).glob("*.jsonl") for line in file.read_text("utf-8").splitlines()]
        assert len(set(lines)) == len(lines), name
