"""The shelves of regularisers and matching terms: what each file must declare, and one of each from another package."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file

from keeltune import recipe
from keeltune.objective.matching.matching import Term
from keeltune.recipe import json_schema
from keeltune.recipe.regularizer_fields import find_regularizer, regularizer_names
from keeltune.runs import run
from keeltune.training.preparation import prepare
from keeltune.training.regularizers.regularizer import Refusal, Regularizer
from keeltune.utils import registry, tensor_tree
from keeltune.utils.errors import UserError
from tests.helpers.runs import QUIET, make_data, spec_of

NAMES = regularizer_names()
OF_SOUND = ("spec_augment",)


def accepted(kind: type[Regularizer]) -> Any:
    """A value that a regulariser takes, of the kinds that there are."""
    for value in (True, 1, 0.5, ["encoder"]):
        try:
            return TypeAdapter(kind.parameter).validate_python(value, strict=True)
        except ValidationError:
            continue
    pytest.fail(f"{kind.__name__} takes none of true, 1, 0.5 and a list of names")


def with_regularizers(spec: dict[str, Any], values: dict[str, Any], folder: Path) -> recipe.Recipe:
    return recipe.from_dict({**spec, "training": {**spec["training"], "regularizers": values}}, folder)


@pytest.fixture
def spec(tiny, tmp_path) -> dict[str, Any]:
    make_data(tmp_path)
    return spec_of("fine-tuning", tiny("bert"))


@pytest.mark.parametrize("name", NAMES)
def test_a_regulariser_declares_what_a_recipe_and_a_report_need(name):
    kind = find_regularizer(name)
    assert issubclass(kind, Regularizer)
    assert not inspect.isabstract(kind)
    assert kind(accepted(kind)).name == name
    assert "Source: " in (kind.__doc__ or "")
    assert json_schema()["$defs"]["Regularizers"]["properties"][name]["description"] == kind.description
    assert kind.passes >= 0
    assert kind.copies >= 0
    assert (kind.on_labelled is not Regularizer.on_labelled) == (kind.passes > 0)


@pytest.mark.parametrize("name", NAMES)
def test_its_value_is_checked_and_null_switches_it_off(name, spec, tmp_path):
    value = accepted(find_regularizer(name))
    assert with_regularizers(spec, {name: value}, tmp_path).training.regularizers.used == {name: value}
    with pytest.raises(UserError) as refused:
        with_regularizers(spec, {name: {"nonsense": 1}}, tmp_path)
    (problem,) = refused.value.problems
    assert problem.field == f"training.regularizers.{name}"
    assert problem.expected
    off = False if find_regularizer(name).parameter is bool else None
    plain = recipe.from_dict(spec, tmp_path)
    assert with_regularizers(spec, {name: off}, tmp_path).model_dump() == plain.model_dump()  # the very same run


@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_meaning_for_a_text_classifier_and_says_why_where_it_has_none(name, spec, tmp_path):
    plain = recipe.from_dict(spec, tmp_path)
    task = prepare.prepare(plain).task
    regularizer = find_regularizer(name)(accepted(find_regularizer(name)))
    found = [*regularizer.refused(plain, None), *regularizer.refused(plain, task)]
    assert [refusal.expected for refusal in found] == ["no spec_augment: what is read is text, no sound"] * (
        name in OF_SOUND
    )
    adapters = recipe.from_dict({**spec, "training": {**spec["training"], "lora": {}}}, tmp_path)
    for refusal in (*regularizer.refused(adapters, None), *regularizer.refused(adapters, task)):
        assert isinstance(refusal, Refusal)
        assert refusal.expected
        assert refusal.fix


@pytest.mark.parametrize("name", NAMES)
def test_a_pages_phrase_holds_its_value(name):
    phrase = find_regularizer(name).phrase
    assert ("{value}" in phrase) == (find_regularizer(name).parameter is not bool)


def test_a_misspelt_name_gets_the_nearest(spec, tmp_path):
    with pytest.raises(UserError, match='did you mean "weight_average"') as refused:
        with_regularizers(spec, {"weight_averag": 0.9}, tmp_path)
    assert refused.value.problems[0].field == "training.regularizers.weight_averag"


@pytest.mark.parametrize("spelling", [{"l2_sp": 0.5}, {"regularizers": {"l2_sp": 0.5}}, {}])
def test_l2_sp_is_one_thing_under_two_names(spelling, spec, tmp_path):
    given = recipe.from_dict({**spec, "training": {**spec["training"], **spelling}}, tmp_path)
    assert given.training.all_regularizers == ({"l2_sp": 0.5} if spelling else {})
    twice = {**spec["training"], "l2_sp": 0.5, "regularizers": {"l2_sp": 0.5}}
    with pytest.raises(UserError, match="keep one of the two"):
        recipe.from_dict({**spec, "training": twice}, tmp_path)


@pytest.mark.parametrize("name", registry.names("matching"))
def test_a_matching_term_declares_what_it_compares(name):
    kind = registry.find("matching", name)
    assert issubclass(kind, Term)
    assert kind.output in ("hidden_states", "attentions")
    assert isinstance(kind.projected, bool)
    assert "Source: " in (kind.__doc__ or "")


OUTSIDE = '''
from pydantic import PositiveFloat

import torch

from keeltune.objective.matching.matching import Term
from keeltune.training.regularizers.regularizer import Refusal, Regularizer


class Shrink(Regularizer):
    """λ · Σ |θ| over the weights that train, and the steps that it has seen."""

    parameter = PositiveFloat
    description = "λ of λ · Σ |θ| over the weights that train."
    phrase = "a penalty on the size of weights ({value})"

    def refused(self, recipe, task):
        if recipe.training.lora is not None:
            yield Refusal("no shrink: adapters start at nothing")

    def on_train_begin(self):
        self.steps = torch.zeros(1)

    def on_weights(self):
        return self.value * sum(p.abs().sum() for p in self.model.parameters() if p.requires_grad)

    def on_step_end(self, step, steps):
        self.steps += 1

    def state(self):
        return {"steps": self.steps}

    def load_state(self, state):
        self.steps = state["steps"]


class Cosine(Term):
    output = "hidden_states"
    projected = True

    @staticmethod
    def distance(student, reference, real):
        distance = 1 - torch.cosine_similarity(student, reference, dim=-1)
        return (distance * real).sum(-1) / real.sum(-1).clamp_min(1)


class Speechless(Regularizer):
    parameter = float
    description = phrase = "without a reason"
'''


@pytest.fixture
def outside(tmp_path, monkeypatch) -> str:
    """A package outside the repository; the name of its module."""
    package = tmp_path / "packages" / "my_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "my_terms.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(package.parent)
    registry.find.cache_clear()
    yield "my_package.my_terms"
    for name in ("my_package", "my_package.my_terms"):
        sys.modules.pop(name, None)
    registry.find.cache_clear()


def test_one_of_each_from_another_package_trains_and_is_found_in_the_report(outside, spec, tiny, tmp_path):
    shrink, cosine = f"{outside}:Shrink", f"{outside}:Cosine"
    spec |= {"method": "distillation", "reference": str(tiny("bert", seed=5))}
    plain = run.train(recipe.from_dict({**spec, "output": "plain"}, tmp_path), display=QUIET)
    spec |= {"objective": {"matching": {cosine: 0.5}}, "output": "out"}
    spec["training"] |= {"save_strategy": "steps", "save_steps": 1, "keep_checkpoints": True}
    given = with_regularizers(spec, {shrink: 0.25, "label_smoothing": 0.1}, tmp_path)
    assert outside not in sys.modules  # a recipe that is only read imports no code of others
    done = run.train(given, display=QUIET)
    stored = json.loads((done.folder / "result.json").read_text())
    assert stored["training"]["regularizers"] == {"label_smoothing": 0.1, shrink: 0.25}
    assert stored["objective"]["matching"] > 0
    page = (done.folder / "report.html").read_text("utf-8")
    assert "Regularised by: label smoothing (0.1), a penalty on the size of weights (0.25)." in page
    assert f"{cosine}: 0.5" in page  # in the recipe
    assert f"{shrink}: 0.25" in page
    before, after = (load_file(one.model / "model.safetensors") for one in (plain, done))
    assert not all(torch.equal(before[name], after[name]) for name in before)
    size = [sum(float(weight.abs().sum()) for weight in weights.values()) for weights in (before, after)]
    assert size[1] < size[0]
    (checkpoint, *_) = sorted((done.folder / "checkpoints").glob("checkpoint-*"))
    state = tensor_tree.load(checkpoint / "rank-0.safetensors")["parts"][shrink]
    assert state["steps"].tolist() == [float(checkpoint.name.rsplit("-", 1)[1])]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("my_package.my_terms:Shrink", -1.0, "greater than 0"),
        ("my_package.my_terms:Shrunk", 1.0, "no Shrunk in my_package.my_terms"),
        ("my_package.my_term:Shrink", 1.0, "no module my_package.my_term"),
        ("my_package.my_terms:Cosine", 1.0, "no class derived from"),
        ("my_package.my_terms:Speechless", 1.0, "must define refused"),
    ],
)
def test_what_cannot_be_had_from_outside_is_refused_before_training(outside, spec, tmp_path, name, value, expected):
    with pytest.raises(UserError) as refused:
        prepare.prepare(with_regularizers(spec, {name: value}, tmp_path))
    (problem,) = refused.value.problems
    assert problem.field == f"training.regularizers.{name}"
    assert expected in problem.expected
    assert problem.fix


def test_a_matching_term_that_cannot_be_had_is_refused_before_training(outside, spec, tiny, tmp_path):
    spec |= {"method": "distillation", "reference": str(tiny("bert", seed=5))}
    spec |= {"objective": {"matching": {f"{outside}:Sine": 1.0}}}
    with pytest.raises(UserError, match=r"no Sine in my_package\.my_terms") as refused:
        prepare.prepare(recipe.from_dict(spec, tmp_path))
    assert refused.value.problems[0].field == f"objective.matching.{outside}:Sine"


def test_a_class_that_declares_too_little_is_told_so():
    with pytest.raises(TypeError, match="declares no phrase"):
        type("Silent", (Regularizer,), {"parameter": float, "description": "x"})
    with pytest.raises(TypeError, match="holds more than"):
        type("Odd", (Regularizer,), {"parameter": float, "description": "x", "phrase": "{other}"})
    with pytest.raises(TypeError, match="declares no projected"):
        type("Half", (Term,), {"output": "hidden_states"})


def test_a_result_of_another_version_names_what_there_is_no_file_of():
    from keeltune.reports.findings import method

    used = {"weight_average": 0.9, "mixup": 0.2, "old:Thing": [1, 2]}
    _, sentence = method.findings({"training": {"regularizers": used}, "method": "fine-tuning"})
    assert sentence == "Regularised by: averaged weights (0.9), mixup (0.2), old:Thing ([1, 2])."
