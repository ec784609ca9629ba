"""Every example is run: the recipes end to end on a small random model, the scripts until they have learned."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keeltune import recipe, registry, reviews
from tests import captioners, speakers, writers
from tests import test_question_answering as answerers
from tests import test_semantic_role_labeling as labellers
from tests.conftest import save_tiny

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "examples").glob("*.yaml"))
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


def test_there_is_one_recipe_for_each_task_and_method():
    found = {(r.task, r.method) for r in (recipe.load(path) for path in RECIPES)}
    methods = ("fine-tuning", "distillation", "cross-domain")
    assert found == {(task, method) for task in registry.names("tasks") for method in methods}
    assert len(RECIPES) == len(found)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_named_for_what_it_is(path):
    loaded = recipe.load(path)
    assert path.stem == f"{loaded.task}-{loaded.method}"


def classifier(folder: Path, data: Path, path: Path) -> Path:
    reviews.write(data, source=24, target=16, unlabeled=16, validation=8, test=8)
    return save_tiny(folder)


def writing(architecture: str, task: str) -> Callable[[Path, Path, Path], Path]:
    """Makes a small model of an architecture that writes, and rows in every file that the recipe names."""

    def make(folder: Path, data: Path, path: Path) -> Path:
        lines = [json.dumps(row.fields) + "\n" for row in writers.rows(task)]
        for name in re.findall(r"data/(\S+\.jsonl)", path.read_text(encoding="utf-8")):
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_text("".join(lines), encoding="utf-8")
        return writers.folder_of(*writers.writer(architecture, task=task), folder)

    return make


def labelling(folder: Path, data: Path, path: Path) -> Path:
    lines = [row.fields for row in labellers.rows()]
    for name in re.findall(r"data/(\S+\.jsonl)", path.read_text(encoding="utf-8")):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        labellers.write(data / name, lines)
    return labellers.folder(folder, "bert")


def answering(folder: Path, data: Path, path: Path) -> Path:
    for name in re.findall(r"data/(\S+\.jsonl)", path.read_text(encoding="utf-8")):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        answerers.write(data / name, answerers.rows(answered=True))
    answerers.folder_of(folder, "bert", 0)
    return folder


def captioning(folder: Path, data: Path, path: Path) -> Path:
    for name in re.findall(r"data/(\S+\.jsonl)", path.read_text(encoding="utf-8")):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        captioners.write((data / name).parent, Path(name).name)
    return captioners.save("vit gpt2", folder)


def hearing(folder: Path, data: Path, path: Path) -> Path:
    for name in re.findall(r"data/(\S+\.jsonl)", path.read_text(encoding="utf-8")):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        speakers.write((data / name).parent, Path(name).name, range(12))
    return speakers.save("whisper", folder)


MAKERS: dict[str, Callable[[Path, Path, Path], Path]] = {
    "text-classification": classifier,
    "sentiment-analysis": classifier,
    "translation": writing("marian", "translation"),
    "summarization": writing("bart", "summarization"),
    "text-generation": writing("llama", "text-generation"),
    "semantic-role-labeling": labelling,
    "question-answering": answering,
    "image-captioning": captioning,
    "speech-recognition": hearing,
}
"""A small model and small data for each task, in the place of those that a recipe names."""


@pytest.mark.slow  # trains
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains(path, tmp_path):
    from keeltune import run

    model = MAKERS[recipe.load(path).task](tmp_path / "model", tmp_path / "data", path)
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    plain = recipe.load(copy)
    task = registry.find("tasks", plain.task)
    changes = ["training.epochs=null", "training.max_steps=2", "training.batch_size=4", "training.precision=fp32"]
    student = isinstance(plain.model, recipe.StudentFrom)
    changes += [f"model={{from: {model}, layers: 1}}" if student else f"model={model}"]
    changes += ["generation.max_new_tokens=4"] if task.generates else []
    changes += [f"max_length={min(plain.max_length, 48)}"] if plain.max_length else []
    changes += [f"reference={model}"] if plain.reference else []
    changes += ["evaluation.every=1"] if plain.evaluation.every != "auto" else []
    finished = run.train(recipe.load(copy, changes))

    result = json.loads((finished.folder / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "completed"
    assert result["training"]["steps"] == 2
    assert result["data"]["train"]["rows"] > 0
    for name, (low, high) in result["intervals"]["test"].items():
        assert low <= result["metrics"]["test"][name] <= high
    anchored = plain.method != "fine-tuning"
    assert (result["objective"]["divergence"] is not None) == anchored
    assert (result["metrics"]["source"]["after"] is not None) == (plain.data.source.test is not None)
    assert (finished.model / "model.safetensors").is_file()


@pytest.mark.slow  # starts a process that imports torch and trains
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_lowers_the_loss(script, tmp_path):
    rows = [
        {"text": f"the {noun} {verb} {word}", "label": label}
        for noun in ("film", "plot")
        for verb in ("is", "was", "was very")
        for word, label in (("good", "positive"), ("fine", "positive"), ("bad", "negative"), ("dull", "negative"))
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = [save_tiny(tmp_path / "model"), save_tiny(tmp_path / "teacher", seed=1), data]
    arguments += [tmp_path / "out"] if script.stem == "stock_trainer" else []
    command = [sys.executable, script, *arguments, "--steps", "60", "--rate", "1e-2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    losses = [float(value) for value in re.findall(r"^step \d+ loss (\S+)$", done.stdout, re.MULTILINE)]
    assert len(losses) == 60
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
