"""Every example is run: the recipes end to end on a small random model, the scripts until they have learned."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import transformers

from keeltune import recipe
from keeltune.recipe import fields
from keeltune.utils import registry
from tests.helpers import processes
from tests.helpers.chats import KINDS
from tests.helpers.families import FAMILIES
from tests.helpers.models import save_tiny

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "examples").glob("*.yaml"))
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
METHODS = ("fine-tuning", "distillation", "cross-domain")


def test_there_is_one_recipe_for_each_task_and_method():
    found = {(r.task, r.method) for r in (recipe.load(path) for path in RECIPES)}
    assert found == {(task, method) for task in registry.names("tasks") for method in METHODS}
    assert len(RECIPES) == len(found)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_named_for_what_it_is(path):
    loaded = recipe.load(path)
    assert path.stem == f"{loaded.task}-{loaded.method}"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_of_the_benchmarks_is_sound_and_named_for_its_output(path):
    loaded = recipe.load(path)
    assert loaded.output == path.stem
    if path.parent.name == "cells":
        assert path.stem.endswith(f"-{loaded.method}")


SMALL = {
    "text-classification": "bert",
    "sentiment-analysis": "bert",
    "translation": "marian",
    "summarization": "llama",
    "text-generation": "llama",
    "semantic-role-labeling": "bert",
    "token-classification": "bert",
    "regression": "bert",
    "question-answering": "bert",
    "image-captioning": "vit gpt2",
    "speech-recognition": "whisper",
}
"""The architecture of the small model that each task's recipes are run with."""


def longest(task: str) -> int:
    """What its small model reads at once, in tokens."""
    return 90 if SMALL[task] == "llama" else 48


def save_small(task: str, folder: Path) -> None:
    """The small model of a task's recipes; a decoder with a chat template, as those that the recipes name have."""
    FAMILIES[task].save(folder, SMALL[task], 0)
    if SMALL[task] == "llama":
        words = transformers.AutoTokenizer.from_pretrained(folder)
        words.chat_template = KINDS["llama-2"].template
        words.save_pretrained(folder)


def _trained() -> list:
    """Of each task one recipe, the methods in turn: how methods and tasks go together is `tests/contract`'s to say."""
    tasks = registry.names("tasks")
    chosen = {f"{task}-{METHODS[place % 3]}" for place, task in enumerate(tasks)}
    return [pytest.param(path, marks=[] if path.stem in chosen else pytest.mark.wide) for path in RECIPES]


@pytest.mark.slow  # a training for each recipe of the examples
@pytest.mark.parametrize("path", _trained(), ids=lambda path: path.stem)
def test_recipe_trains(path, tmp_path):
    from keeltune.runs import run

    task_name = recipe.load(path).task
    model = tmp_path / "model"
    save_small(task_name, model)
    for name in re.findall(r"data/\S+\.(?:jsonl|conll)", path.read_text(encoding="utf-8")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        FAMILIES["text-generation" if "chats" in name else task_name].write(tmp_path / name)
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    plain = recipe.load(copy)
    task = registry.find("tasks", plain.task)
    changes = ["training.epochs=null", "training.max_steps=2", "training.batch_size=4", "training.precision=fp32"]
    student = isinstance(plain.model, fields.StudentFrom)
    changes += [f"model={{from: {model}, layers: 1}}" if student else f"model={model}"]
    changes += ["generation.max_new_tokens=4"] if task.generates else []
    changes += [f"max_length={min(plain.max_length, longest(plain.task))}"] if plain.max_length else []
    changes += [f"target_max_length={min(plain.target_max_length, 24)}"] if plain.target_max_length else []
    changes += [f"reference={model}"] if plain.reference else []
    changes += ["evaluation.every=1"] if plain.evaluation.every != "auto" else []
    finished = run.train(recipe.load(copy, changes))

    result = json.loads((finished.folder / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "completed"
    assert result["training"]["steps"] == 2
    assert result["data"]["train"]["rows"] > 0
    assert result["audit"]["splits"]["train"]["rows"] == result["data"]["train"]["rows"]
    for name, (low, high) in result["intervals"]["test"].items():
        assert low <= result["metrics"]["test"][name] <= high
    anchored = plain.method != "fine-tuning"
    assert (result["objective"]["divergence"] is not None) == anchored
    named = isinstance(plain.data.source.test, list)
    assert (result["metrics"]["source"]["after"] is not None) == (plain.data.source.test is not None and not named)
    assert set(result["abilities"] or {}) == ({one.name for one in plain.data.source.test} if named else set())
    assert (finished.model / "model.safetensors").is_file()


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
    arguments = list(map(str, [script, *arguments, "--steps", "30", "--rate", "1e-2"]))
    done = processes.start(processes.run_script, *arguments, output=tmp_path / "said")
    assert done.wait() == 0, done.text
    losses = [float(value) for value in re.findall(r"^step \d+ loss (\S+)$", done.text, re.MULTILINE)]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
