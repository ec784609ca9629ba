"""What a recipe may say of the source domain: its rows, the anchor on them, and the weights before training."""

from __future__ import annotations

from collections.abc import Iterator

from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import NewModel
from keeltune.recipe.objective_fields import WeightRule
from keeltune.recipe.task_validation import task_allows
from keeltune.utils.errors import Problem, nearest


def source_faults(recipe: Recipe, stand_in: bool) -> Iterator[Problem]:
    """Rows of the source domain: replayed, held, or scored; none lies there for nothing."""
    source, mix, on = recipe.data.source, recipe.data.mix, recipe.objective.anchor_on
    anchors = stand_in or recipe.method == "cross-domain"
    if on != "target" and not anchors:
        expected = f"target: {recipe.method} has no source domain that could be held"
        yield recipe.problem("objective.anchor_on", expected=expected, fix="choose method: cross-domain")
    elif on in ("source", "both") and source.unlabeled is None:
        fix = "add data.source.unlabeled: FILE (the file of labelled source rows will do), or write anchor_on: target"
        yield recipe.problem("objective.anchor_on", expected="inputs of the source domain to hold", fix=fix)
    elif on == "generated" and not task_allows(recipe, "generates"):
        expected = f"target, source or both: {recipe.task} writes no text that could be held"
        yield recipe.problem("objective.anchor_on", expected=expected, fix="choose one of these")
    if source.unlabeled is not None and not (anchors and on in ("source", "both")):
        expected = "no unlabelled source rows: nothing would be computed on them"
        fix = "write method: cross-domain with objective.anchor_on: source, or leave it out"
        yield recipe.problem("data.source.unlabeled", expected=expected, fix=fix)
    for field, rows, name in (
        ("source", source.train, "data.source.train"),
        ("source_unlabeled", source.unlabeled or (on == "generated"), "data.source.unlabeled"),
    ):
        if field in mix.model_fields_set and not rows:
            fix = f"leave it out, or add {name}"
            yield recipe.problem(f"data.mix.{field}", expected=f"rows to mix in: {name} is missing", fix=fix)
    yield from _named_test_faults(recipe)
    yield from _harness_faults(recipe)
    yield from _anchor_head_faults(recipe, anchors)
    yield from _start_faults(recipe)


def _named_test_faults(recipe: Recipe) -> Iterator[Problem]:
    """Each set has a name of its own, and the student's own head answers it."""
    names = [test.name for test in recipe.data.source.named_tests]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        expected, fix = f"each name once; twice there: {', '.join(twice)}", "rename one of them"
        yield recipe.problem("data.source.test", expected=expected, fix=fix)
    if names and recipe.objective.anchor_head != "task":
        expected = f"a file: with anchor_head: {recipe.objective.anchor_head} a second head answers the old rows"
        yield recipe.problem("data.source.test", expected=expected, fix="name one file, or write anchor_head: task")


def _harness_faults(recipe: Recipe) -> Iterator[Problem]:
    """Its tasks are asked of models that write."""
    field = "data.source.lm_eval"
    if recipe.data.source.lm_eval is not None and not task_allows(recipe, "generates"):
        expected = f"no lm_eval: its tasks ask a decoder for texts, and {recipe.task} writes none"
        yield recipe.problem(field, expected=expected, fix="leave it out, or name rows of your own: data.source.test")


def _start_faults(recipe: Recipe) -> Iterator[Problem]:
    """Interpolation towards the weights before training, and the squared distance from them."""
    source, share = recipe.data.source, recipe.training.interpolate
    if isinstance(share, str) and share not in ("auto", "recommended"):
        fix = f"choose one of them{nearest(share, ('auto', 'recommended'))}"
        yield recipe.problem("training.interpolate", expected="auto, recommended, a number or null", fix=fix)
    if share == "recommended" and (source.validation is None or recipe.data.named_validation is None):
        expected = "data.validation and data.source.validation, on which the recommended point is found"
        yield recipe.problem("training.interpolate", expected=expected, fix="add them, or write a number")
    weight = recipe.objective.weight
    if isinstance(share, float | str) and share != "auto" and isinstance(weight, WeightRule) and not weight.confidence:
        expected = "auto: a budget chooses the point itself"
        yield recipe.problem("training.interpolate", expected=expected, fix="leave it out, or write a number as weight")
    if isinstance(recipe.model, NewModel) and (isinstance(share, float) or share == "recommended"):
        expected = "no interpolate: the weights of a new model are random, and nothing is to be kept of them"
        yield recipe.problem("training.interpolate", expected=expected, fix="leave it out")


def _anchor_head_faults(recipe: Recipe, anchors: bool) -> Iterator[Problem]:
    """A second head is held on one student's body, in one process, live."""
    head, source = recipe.objective.anchor_head, recipe.data.source
    if head == "task":
        return
    reasons = {
        "it holds a source model (method: cross-domain)": not anchors,
        f"{recipe.task} has no head of its own on an encoder": not task_allows(recipe, "separate_head"),
        "the head is that of `model` itself (no reference is named)": recipe.reference is not None,
        "the body is trained as a whole (no lora)": recipe.training.lora is not None,
        "texts are drawn by models that write": recipe.objective.anchor_on == "generated",
        "the body is the source model's (model: a folder or a hub id)": not isinstance(recipe.model, str),
    }
    for reason in (reason for reason, holds in reasons.items() if holds):
        expected = f"task: {reason}"
        yield recipe.problem("objective.anchor_head", expected=expected, fix="write anchor_head: task, or leave it out")
    labelled = {
        "train": source.train,
        **({"validation": source.validation, "test": source.test} if head != "source" else {}),
    }
    for name in (name for name, file in labelled.items() if file is not None):
        expected = f"no labelled source rows: with anchor_head: {head} nothing is learnt from them, or scored"
        yield recipe.problem(f"data.source.{name}", expected=expected, fix="leave it out")
