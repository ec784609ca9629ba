"""Recipes: broken ones are told apart and explained, sound ones mean what they say."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from keeltune.recipe import from_dict, load, parse
from keeltune.recipe.field_types import Declared
from keeltune.recipe.fields import Recipe, json_schema
from keeltune.recipe.model_fields import NewModel, StudentFrom
from keeltune.recipe.objective_fields import WeightRule
from keeltune.utils.errors import UserError
from tests.bad_inputs.recipes import BOMB, CROSS_DOMAIN, DISTILLATION, FINE_TUNING


def fails(text: str, *overrides: str) -> UserError:
    with pytest.raises(UserError) as caught:
        parse(text, folder="/recipes", overrides=overrides)
    return caught.value


def fields(error: UserError) -> list[str]:
    return [problem.field for problem in error.problems]


def test_every_problem_comes_at_once_and_in_the_order_of_the_file():
    text = """\
task: sentimentality
method: distillation
model: {from: teacher, layers: 2.5}
data:
  trian: train.jsonl
  labels: [yes, "no"]
  test: 3
  test: test.jsonl
objective:
  weight: {confidence: 0.2}
  divergence: {name: jensen-shannon, beta: 7}
training:
  learning_rate: "1e-4"
  label_smoothing_factor: 0.1
  epochs: 3
  max_steps: 5
target_max_length: 8
"""
    error = fails(text, "evaluation.every=0", "sed=1")
    assert fields(error) == [
        "task",
        "model.layers",
        "data.trian",
        "data.labels.0",
        "data.test",
        "objective.weight.confidence",
        "objective.divergence.beta",
        "training.learning_rate",
        "training.label_smoothing_factor",
        "training.max_steps",
        "target_max_length",
        "evaluation.every",  # from here on without a line: overrides, and what is missing
        "output",
        "sed",
        "reference",
    ]


def test_a_misspelt_name_is_one_problem_and_not_also_a_missing_field():
    assert fields(fails(FINE_TUNING.replace("train:", "trian:"))) == ["data.trian"]
    assert fields(fails(FINE_TUNING.replace("output", "outptu"))) == ["outptu"]
    assert fields(fails(DISTILLATION.replace("reference", "refrence"))) == ["refrence"]


def test_code_in_a_tag_is_never_run(tmp_path: Path):
    canary = tmp_path / "canary"
    fails(FINE_TUNING + f"prompt: !!python/object/apply:pathlib.Path.touch [!!python/name:pathlib.Path ['{canary}']]\n")
    fails(FINE_TUNING + f"prompt: !!python/object/apply:os.system ['touch {canary}']\n")
    assert not canary.exists()


def test_an_alias_bomb_costs_less_than_a_second():
    start = time.process_time()
    fails(FINE_TUNING + BOMB)
    assert time.process_time() - start < 1


def test_a_path_that_holds_no_recipe_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "airline.yaml").write_text(FINE_TUNING)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r'did you mean "airline\.yaml"') as caught:
        load("airlin.yaml")
    assert caught.value.problems[0].where == str(tmp_path / "airlin.yaml")
    assert "No such file" in caught.value.problems[0].found
    with pytest.raises(UserError, match="a folder, not a file"):
        load(tmp_path)
    with pytest.raises(UserError, match="null byte"):
        load("a\0b")


# ── Sound recipes ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_defaults_are_those_of_the_design_and_of_decision_0036():
    recipe = parse(FINE_TUNING, folder="/recipes")
    training = recipe.training
    assert (training.epochs, training.max_steps, training.learning_rate) == ("auto", None, "auto")
    assert (training.head_learning_rate, recipe.data.validation) == ("auto", "auto")
    assert (training.passes, training.rates) == (3, (5e-5, 5e-5))  # before anything is decided
    assert (training.batch_size, training.gradient_accumulation_steps, training.precision) == (32, 1, "auto")
    assert (training.lora, training.seed, training.passed) == (None, 0, {})
    assert (recipe.evaluation.every, recipe.evaluation.rows, recipe.evaluation.patience) == ("auto", None, "auto")
    assert (recipe.data.mix.unlabeled, recipe.data.mix.source_unlabeled, recipe.data.mix.source) == (1.0, 1.0, 0.25)
    assert (recipe.objective.divergence_name, recipe.objective.temperature) == ("reverse-kl", 1.0)
    assert recipe.data.bad_rows == "refuse"


def test_the_weight_of_a_method():
    def weight(text: str, *overrides: str) -> float | WeightRule:
        return parse(text, folder="/recipes", overrides=overrides).weight_spec()

    assert weight(FINE_TUNING) == 0.0
    assert weight(DISTILLATION) == 1.0
    assert weight(CROSS_DOMAIN) == WeightRule(confidence=0.999)
    assert weight(CROSS_DOMAIN, "objective.weight=0.29", "objective.divergence=logit-mse") == 0.29
    assert weight(DISTILLATION, "objective.weight=0") == 0
    assert weight(DISTILLATION, "objective={weight: {confidence: 0.9}, divergence: forward-kl}") == WeightRule(
        confidence=0.9
    )


def test_the_reference_of_a_method():
    recipe = parse(FINE_TUNING, folder="/recipes")
    assert (recipe.reference_spec(), recipe.reference_models()) == (None, [])
    recipe = parse(CROSS_DOMAIN, folder="/recipes")
    assert recipe.reference_spec().model is None
    assert recipe.reference_models() == ["encoder"]
    recipe = parse(DISTILLATION, folder="/recipes", overrides=["reference={model: [a, b], weight: [1, 2.5]}"])
    assert recipe.reference_spec().weight == [1, 2.5]
    assert recipe.reference_models() == ["a", "b"]
    assert parse(DISTILLATION, folder="/recipes", overrides=["reference=[a, b]"]).reference_models() == ["a", "b"]
    adapted = ["reference={from: adapter-off}", "training.lora={}"]
    assert parse(CROSS_DOMAIN, folder="/recipes", overrides=adapted).reference_spec().origin == "adapter-off"


UNUSUAL = {
    "flow style": "{task: sentiment-analysis, method: fine-tuning, model: m, data: {train: a}, output: o}",
    "unlabelled rows alone": DISTILLATION.replace("train:", "unlabeled:") + "training: {max_steps: 10}\n",
    "unlabelled target rows anchored": CROSS_DOMAIN + "  unlabeled: more.csv.gz\n",
    "a pool of hard labels": DISTILLATION + "  unlabeled: more.csv.gz\n  unlabeled_as: labels\n",
    "variants": DISTILLATION + "  augment: {word_dropout: 0.2, crops: false, variants: 2}\n  mix: {augmented: 0.5}\n",
    "own task and divergence": DISTILLATION.replace("sentiment-analysis", "mine.tasks:Irony")
    + "objective: {divergence: 'mine.near:nearness'}\n",
    "a student of some layers": DISTILLATION.replace("encoder", "{from: teacher, layers: [0, 5]}"),
    "empty sections": FINE_TUNING + "training:\nobjective:\nevaluation:\n  \n# nothing more\n",
    "anchors and aliases": "task: sentiment-analysis\nmethod: distillation\nmodel: &m encoder\nreference: [*m, other]\n"
    "data: {train: a, test: &t hub:imdb@main:plain, source: {test: *t}}\noutput: o\n",
    "labels of every kind": FINE_TUNING
    + '  labels: {"yes": 1, 0: "no", 文: "on", "2020-01-01": "~", "1e5": ""}\n'.replace('""', '" "').replace(
        '" "', '"#"'
    ),
    "several at once": FINE_TUNING.replace("sentiment-analysis", "text-classification")
    + "  multi_label: true\n  labels: [one]\n  class_weights: balanced\n  validation: 0.1\n"
    "evaluation: {every: 50, rows: 100, patience: null}\n"
    "training: {tokens_per_batch: 4096, max_steps: 7, learning_rate: 1e-4, precision: bf16, lora: {rank: 4}}\n",
    "passed on": FINE_TUNING + "training: {weight_decay: 0.1, warmup_steps: 0.06, max_grad_norm: 0.5, save_steps: 100, "
    "lr_scheduler_type: cosine, optim: adamw_torch, report_to: none, gradient_checkpointing: true}\n",
}


@pytest.mark.parametrize("text", UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_unusual_recipe_is_read_and_its_dump_makes_the_same_run(text: str):
    recipe = parse(text, folder="/recipes")
    again = parse(recipe.dump(), folder="/elsewhere")
    assert again.dump() == recipe.dump()
    moved = {"data", "output"}
    assert again.model_dump(exclude=moved) == recipe.model_dump(exclude=moved)
    assert again.path(again.output) == recipe.path(recipe.output) == Path("/recipes") / recipe.output
    rows = {"train", "validation", "test", "unlabeled", "source"}
    assert again.data.model_dump(exclude=rows) == recipe.data.model_dump(exclude=rows)


def test_unusual_recipes_mean_what_they_say():
    read = {name: parse(text, folder="/recipes") for name, text in UNUSUAL.items() if name != "passed on"}
    labels = {"yes": 1, 0: "no", "文": "on", "2020-01-01": "~", "1e5": "#"}
    assert read["labels of every kind"].data.labels == labels
    aliases = read["anchors and aliases"]
    assert aliases.reference == ["encoder", "other"]
    assert aliases.data.source.test == aliases.data.test == "hub:imdb@main:plain"
    assert "test: hub:imdb@main:plain" in aliases.dump()
    several = read["several at once"].training
    assert (several.epochs, several.batch_size, several.learning_rate) == (None, None, 1e-4)
    assert (several.lora.rank, several.lora.alpha) == (4, None)
    assert read["several at once"].evaluation.patience is None
    assert read["a student of some layers"].model == StudentFrom(**{"from": "teacher", "layers": [0, 5]})


def test_what_is_passed_to_training_arguments():
    passed = parse(UNUSUAL["passed on"], folder="/recipes").training.passed
    assert passed["weight_decay"] == 0.1
    assert set(passed) >= {"warmup_steps", "lr_scheduler_type", "gradient_checkpointing"}
    assert "epochs" not in passed


def test_paths_start_at_the_recipe_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "encoder").mkdir()
    (tmp_path / "recipes" / "a.yaml").write_text("\ufeff" + DISTILLATION.replace("\n", "\r\n"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    recipe = load("recipes/a.yaml", ["reference=org/teacher"])
    assert recipe.folder == tmp_path / "recipes"
    assert recipe.path("run") == tmp_path / "recipes" / "run"
    assert recipe.path("/data/x") == Path("/data/x")
    dumped = parse(recipe.dump(), folder="/elsewhere")
    assert dumped.output == str(tmp_path / "recipes" / "run")
    assert dumped.data.train == str(tmp_path / "recipes" / "train.jsonl")
    assert dumped.model == str(tmp_path / "recipes" / "encoder")  # a folder that is there
    assert dumped.reference == "org/teacher"  # a hub id stays one
    new = "{new: {model_type: encoder-decoder, encoder: encoder, decoder: {model_type: gpt2}}, tokenizer: encoder}"
    recipe = load("recipes/a.yaml", [f"model={new}"])
    dumped = parse(recipe.dump(), folder="/elsewhere")
    there = str(tmp_path / "recipes" / "encoder")
    assert dumped.model.tokenizer == dumped.model.new["encoder"] == there
    assert dumped.model.new["decoder"] == {"model_type": "gpt2"}
    assert dumped.model.new["model_type"] == "encoder-decoder"


def test_a_field_knows_its_place():
    recipe = parse(DISTILLATION, folder="/recipes", overrides=["training.seed=5"])
    assert recipe.where("data.train") == "recipe.yaml:7:10"
    assert recipe.where("data") == "recipe.yaml:6:1"
    assert recipe.where("data.test") == "recipe.yaml:6:1"  # where it could stand
    assert recipe.where("training.seed") == "override training.seed=5"
    assert recipe.where("evaluation.every") == recipe.where() == "recipe.yaml"
    problem = recipe.problem("reference", expected="a trained head", fix="train it first")
    assert (problem.where, problem.found) == ("recipe.yaml:4:12", '"teacher" (text)')


def test_overrides():
    text = FINE_TUNING + "evaluation:\n"
    overrides = [
        "training.learning_rate=1e-4",
        "training.lora.rank=8",
        "evaluation.every=5",
        "data.validation=0.2",
        "data.columns={text: body=x}",
        "output=runs/a=b",
        "training.seed=1",
        "training.seed=2",
        "max_length=",
    ]
    recipe = parse(text, folder="/recipes", overrides=overrides)
    assert recipe.training.learning_rate == 1e-4
    assert recipe.training.lora.rank == 8
    assert recipe.evaluation.every == 5
    assert recipe.data.columns == {"text": "body=x"}
    assert recipe.output == "runs/a=b"
    assert recipe.seed == 2
    assert recipe.max_length is None


def test_a_mapping_is_read_like_the_yaml_it_stands_for():
    values = {
        "task": "sentiment-analysis",
        "method": "fine-tuning",
        "model": Path("encoder"),
        "data": {"train": "train.jsonl", "labels": ("bad", "good")},
        "output": "run",
    }
    recipe = from_dict(values, "/recipes", ["training.epochs=1"])
    assert (recipe.model, recipe.data.labels, recipe.training.epochs) == ("encoder", ["bad", "good"], 1)
    with pytest.raises(UserError) as caught:
        from_dict(values | {"methdo": 1, "data": {}}, "/recipes")
    assert fields(caught.value) == ["methdo", "data.train"]


def test_a_recipe_does_not_change():
    recipe = parse(FINE_TUNING, folder="/recipes")
    with pytest.raises(ValueError, match="frozen"):
        recipe.output = "elsewhere"


def test_every_field_is_documented_and_in_the_schema():
    schema = json_schema()
    declared, left = set(), [Declared]
    while left:
        left += (subclasses := left.pop().__subclasses__())
        declared |= {m for m in subclasses if m.__module__.startswith("keeltune")}
    assert {Recipe, NewModel, StudentFrom} < declared
    for model in declared:
        properties = (schema if model is Recipe else schema["$defs"][model.__name__])["properties"]
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            assert properties[field.alias or name]["description"] == field.description
    assert set(schema["required"]) == {"task", "method", "model", "data", "output"}
    assert schema["additionalProperties"] is False
    assert "sentiment-analysis" in schema["properties"]["task"]["examples"]


def test_reading_a_recipe_loads_nothing_heavy():
    code = f"""
import sys
from keeltune import recipe
recipe.parse({DISTILLATION!r}, folder="/recipes")
print(sorted({{"torch", "transformers", "numpy", "datasets"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_brackets_inside_brackets_end_at_once(tmp_path):
    """The library's scanner looks at each open bracket for each character behind it: thousands of them took seconds."""
    file = tmp_path / "recipe.yaml"
    for text in ("[" * 4000, '{"data": ' + "[" * 4000, "a: " + "{a: [" * 2000):
        file.write_text(text)
        start = time.process_time()
        with pytest.raises(UserError, match="values inside values"):
            load(file)
        assert time.process_time() - start < 1
