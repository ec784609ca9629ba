"""Every file of `objective/references/` keeps the contract of a reference; so does a class of one's own, and it trains.

The bench is a real preparation: a tiny decoder with an adapter, a teacher beside it, in a cache, and behind a server.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from typing import get_args

import pytest
import torch
from peft import LoraConfig, get_peft_model

import keeltune as kt
from keeltune import recipe
from keeltune.objective.references.reference import Need, Reference, ReferenceContext
from keeltune.recipe.reference_fields import RULES
from keeltune.training import build, reference_loading
from keeltune.training.cache.capture import capture
from keeltune.training.cache.finished import open_answers
from keeltune.training.cache.identity import cache_request
from keeltune.training.preparation import prepare
from keeltune.utils import registry
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import served_teacher
from tests.helpers.families import spec, write_lines

QUIET = Display(quiet=True)
REFERENCES = registry.names("references")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """(a context that has everything, a batch, the modules that must stay in their modes)."""
    folder = tmp_path_factory.mktemp("references")
    values = spec(folder, "text-generation", "llama", "distillation") | {"output": "out"}
    with served_teacher.serving(str(folder / "teacher")) as (port, _):
        url = f"http://127.0.0.1:{port}/right/1"
        material = prepare.prepare(recipe.from_dict(values, folder))
        start = build.prepared(material, QUIET)
        teacher = start.live_reference()
        request = cache_request(material, start.precision, start.plan.anchored_examples())
        store = capture(request, material, teacher, start.device, QUIET)
        context = reference_loading.context_of(material, start.live_reference.models, start.autocast, start.device)
        student = adapted(start.student.model)
        context = replace(
            context,
            fields={**context.fields, "url": url, "model": "teacher", "k": 8},
            student=student,
            cache=lambda: open_answers(store, material, start.device, start.autocast),
        )
        batch = material.task.collate(start.plan.anchored_examples()[:5])
        yield context, batch, [*student.modules(), *start.live_reference.models()[0].model.modules()]


def adapted(model: torch.nn.Module) -> torch.nn.Module:
    """With a LoRA adapter that is not at zero, and each dropout in a mode of its own."""
    student = get_peft_model(copy.deepcopy(model), LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=0.5))
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    student.train()
    for i, module in enumerate(m for m in student.modules() if isinstance(m, torch.nn.Dropout)):
        module.training = i % 2 == 0
    return student


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_says_what_it_is_and_what_it_needs(name):
    reference_class = registry.find("references", name)
    assert issubclass(reference_class, Reference)
    assert reference_class.__doc__
    assert reference_class.kind == name  # what a recipe writes is what `result.json` says
    assert reference_class.needs <= set(get_args(Need))
    assert "build" in vars(reference_class) or not reference_class.needs
    assert name not in RULES


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_keeps_its_contract(bench, name):
    context, batch, modules = bench
    keeps_the_contract(registry.find("references", name).build(context), batch, modules, context)


def keeps_the_contract(reference: Reference, batch: dict, modules: list, context: ReferenceContext) -> None:
    before = [module.training for module in modules]
    torch.manual_seed(3)
    random = torch.get_rng_state()
    first, again = (reference.rows(batch) for _ in range(2))
    n = len(batch["targets"])
    assert len(first) == n > 5
    table, other = first.log_probs(slice(0, n)), again.log_probs(slice(0, n))
    assert table.shape == (n, first.choices)
    assert first.choices <= context.choices
    torch.testing.assert_close(table.exp().sum(-1), torch.ones(n), rtol=0, atol=1e-5)
    assert torch.equal(table, other)
    assert not table.requires_grad
    student = torch.randn(n, context.choices).log_softmax(-1)
    assert first.comparable(student, slice(0, n)).shape == table.shape
    torch.set_rng_state(random)
    assert torch.equal(first.log_probs(slice(2, 5)), table[2:5])
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in modules] == before


def test_a_context_says_what_it_lacks():
    context = ReferenceContext({}, 3, lambda outputs, batch: outputs)
    with pytest.raises(LookupError, match="`needs`"):
        context.models()
    with pytest.raises(LookupError, match="`needs`"):
        context.cache()


# A class of one's own

PACKAGE = '''
import torch

from keeltune.objective.predictions import Dense
from keeltune.objective.references.reference import Reference


class Uniform(Reference):
    """The same probability for every choice; reads nothing."""

    kind = "uniform"

    def __init__(self, choices):
        self.choices = choices

    @classmethod
    def build(cls, context):
        return cls(context.choices)

    def rows(self, batch):
        return Dense(torch.zeros(len(batch["targets"]), self.choices))


class Sharpened(Reference):
    """The teacher's distribution at half its temperature."""

    kind = "sharpened"
    needs = frozenset({"models"})

    def __init__(self, teacher):
        self.teacher = teacher

    @classmethod
    def build(cls, context):
        (teacher,) = context.models()
        return cls(teacher)

    def rows(self, batch):
        return Dense(2 * self.teacher.rows(batch).log_probs(slice(None)))


class Itself(Reference):
    """The student's own answers in eval mode, at the moment."""

    kind = "self"
    needs = frozenset({"models", "student"})

    def __init__(self, student, to_rows):
        self.student, self.to_rows = student, to_rows

    @classmethod
    def build(cls, context):
        return cls(context.student, context.to_rows)

    @torch.no_grad()
    def rows(self, batch):
        training = self.student.training
        self.student.eval()
        rows = self.to_rows(self.student(**batch["inputs"]), batch)
        self.student.train(training)
        return rows


class Nothing:
    pass
'''


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A distillation, in a folder with a package of one's own beside the recipe."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").write_text("")
    (folder / "my_package" / "my_references.py").write_text(PACKAGE)
    values = spec(folder, "sentiment-analysis", "bert", "distillation")
    values["data"]["validation"] = "rows.jsonl"
    write_lines(folder / "pool.jsonl", [{"text": f"the film is {word}"} for word in ("good", "bad", "long", "dull")])
    sys.path.insert(0, str(folder))
    yield folder, values
    sys.path.remove(str(folder))
    registry.find.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[name]


def named(name: str, **more) -> dict:
    return {"from": f"my_package.my_references:{name}", **more}


@pytest.mark.parametrize(
    ("reference", "kind", "models"),
    [(named("Uniform"), "uniform", []), (named("Sharpened", model="teacher"), "sharpened", ["teacher"])],
)
def test_a_reference_from_outside_the_package_trains_and_is_reported(given, reference, kind, models):
    folder, values = given
    run = kt.train(recipe.from_dict({**values, "reference": reference, "output": kind}, folder), display=QUIET)
    result = run.result["reference"]
    assert result["kind"] == kind
    assert [name.rsplit("/", 1)[-1] for name in result["models"]] == models
    assert run.result["objective"]["divergence"] > 1e-4
    assert f"reference: {kind}" in (run.folder / "model" / "README.md").read_text()
    page = (run.folder / "report.html").read_text()
    assert reference["from"] in page
    assert f"The reference was {kind}." in page
    again = kt.train(recipe.from_dict({**values, "reference": reference, "output": kind}, folder), display=QUIET,
                     resume=True)  # fmt: skip
    assert again.result["reference"] == result


def test_its_answers_are_what_is_trained_towards(given):
    """A class that reads the student pulls nowhere: D = 0 in eval mode, up to dropout, and the kind is its own."""
    folder, values = given
    values = {**values, "method": "cross-domain", "objective": {"weight": 0.3}, "reference": named("Itself")}
    job = build.build(prepare.prepare(recipe.from_dict({**values, "output": "out"}, folder)), QUIET)
    assert (job.reference_source.kind, job.reference.kind) == ("self", "self")
    assert job.reference.student is job.model
    batch = job.material.task.collate(job.plan.anchored_examples()[:3])
    job.model.eval()
    student = job.material.task.rows(job.material.task.forward(job.model, batch), batch)
    assert job.objective.total(student, job.reference.rows(batch)).item() == pytest.approx(0.0, abs=1e-6)


def test_it_labels_rows_ahead_of_training(given):
    folder, values = given
    values = {**values, "reference": named("Sharpened", model="teacher")}
    values["data"] = {**values["data"], "unlabeled": "pool.jsonl", "unlabeled_as": "labels"}
    material = prepare.prepare(recipe.from_dict({**values, "output": "out"}, folder))
    build.prepared(material, QUIET)
    assert all(e.labelled for e in material.examples["unlabeled"])


@pytest.mark.parametrize(
    ("reference", "field", "expected"),
    [
        ({"from": "onlin", "model": "teacher"}, "reference.from", "one of: adapter-off, auto, cached, ensemble, model"),
        (named("Nothing", model="teacher"), "reference.from", "one of"),
        (named("Uniforn"), "reference.from", "one of"),
        (named("Sharpened"), "reference", "a teacher"),
        (named("Sharpened", model="teacher", cache="kept"), "reference.cache", "caches nothing"),
        (named("Sharpened", model="teacher", url="http://127.0.0.1:9"), "reference.url", "without from: served"),
        (named("Uniform", temperature=2.0), "reference.temperature", "reads no models"),
        ({"from": "model", "model": ["teacher", "student"]}, "reference.model", "several are an ensemble"),
    ],
)
def test_what_a_class_cannot_do_is_refused(given, reference, field, expected):
    folder, values = given
    with pytest.raises(UserError) as caught:
        prepare.prepare(recipe.from_dict({**values, "reference": reference, "output": "out"}, folder))
    assert [p.field for p in caught.value.problems] == [field]
    assert expected in str(caught.value)
    if reference["from"] == "onlin":
        assert '"online"' in str(caught.value) or "online" in caught.value.problems[0].fix


def test_a_recipe_is_read_without_importing_what_it_names(given):
    """It may be that of somebody's run folder; the class is imported when the recipe is trained."""
    folder, values = given
    name = "my_package.my_references:Uniform"
    sys.modules.pop("my_package.my_references", None)
    made = recipe.from_dict({**values, "reference": {"from": name}, "output": "out"}, folder)
    assert "my_package.my_references" not in sys.modules
    assert made.reference_spec().origin == name


def test_a_class_whose_answers_have_no_identity_is_not_cached(given):
    from keeltune.cli import cache

    folder, values = given
    values = {**values, "reference": named("Sharpened", model="teacher"), "output": "out"}
    with pytest.raises(UserError, match="no identity"):
        cache.precompute(recipe.from_dict(values, folder), display=QUIET)
