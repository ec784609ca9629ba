"""What the method, the objective and the data of a recipe allow together.

`cross_faults` finds what no field shows alone. A check never stops at its first fault.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator

from keeltune.recipe.fields import Generation, NewModel, ObjectiveSpec, Recipe, ReferenceSpec, WeightRule
from keeltune.recipe.training_validation import training_faults
from keeltune.utils import registry
from keeltune.utils.errors import Problem, nearest, shown

WRITING = ("summarization", "translation", "image-captioning", "speech-recognition", "text-generation")
"""The tasks whose answer is a text."""

_PARAMETER_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "beta": ("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "a": ("a number between 0 and 1", lambda value: 0 < value < 1),
}


def cross_faults(recipe: Recipe, replaced: set[str]) -> Iterator[Problem]:
    """The faults that no field shows alone. `replaced`: fields that stand-ins hold, whose checks would mislead."""
    distils = "method" in replaced or recipe.method == "distillation"
    if recipe.data.train is None and not (distils and recipe.data.unlabeled is not None):
        fix = "add data.train: FILE; distillation can do with data.unlabeled: FILE alone"
        yield recipe.problem("data.train", expected="the labelled rows to learn from", fix=fix)
    if isinstance(recipe.model, NewModel) and recipe.model.tokenizer is None:
        expected = "a tokenizer: its folder or hub id, or {train: bpe, size: 8000}"
        yield recipe.problem("model.tokenizer", expected=expected, fix="add model.tokenizer")
    yield from _data_faults(recipe)
    yield from _divergence_faults(recipe)
    yield from _matching_faults(recipe)
    yield from training_faults(recipe)
    yield from _source_faults(recipe, "method" in replaced)
    if "task" not in replaced:
        yield from _task_faults(recipe)
    if "method" not in replaced:
        yield from _fine_tuning_faults(recipe) if recipe.method == "fine-tuning" else _anchor_faults(recipe)


def _task_faults(recipe: Recipe) -> Iterator[Problem]:
    built, task = registry.names("tasks"), recipe.task
    if ":" not in task and task not in built:
        expected = f"one of: {', '.join(built)}; or my_package.my_module:MyTask"
        fix = f"choose one of them{nearest(task, built)}"
        yield recipe.problem("task", expected=expected, fix=fix)
    asked = {
        "generation": recipe.generation != Generation(),
        "target_max_length": recipe.target_max_length is not None,
        "prompt": recipe.prompt is not None,
        "languages": recipe.languages is not None,
    }
    for field in (field for field, there in asked.items() if there and ":" not in task):
        if task not in WRITING:
            yield recipe.problem(field, expected=f"no {field}: {task} writes no text", fix="leave it out")
        elif field == "languages" and task not in ("translation", "speech-recognition"):
            yield recipe.problem(field, expected=f"no languages: {task} has one language", fix="leave it out")
    if recipe.method == "fine-tuning":
        asks = {"targets": recipe.generation.targets != "data", "on_policy": recipe.generation.on_policy > 0}
        for field, there in asks.items():
            if there:
                expected = f"no {field}: fine-tuning has no reference to write texts or to score them"
                yield recipe.problem(f"generation.{field}", expected=expected, fix="choose method: distillation")
    elif recipe.method == "cross-domain" and recipe.generation.targets != "data":
        expected = "data: what the source model would write of the new domain is what it knew before"
        yield recipe.problem("generation.targets", expected=expected, fix="choose method: distillation")
    if recipe.data.multi_label and task != "text-classification" and ":" not in task:
        fix = "write task: text-classification, or leave multi_label out"
        yield recipe.problem("data.multi_label", expected=f"false: {task} gives a row one label", fix=fix)


def _data_faults(recipe: Recipe) -> Iterator[Problem]:
    data, evaluation = recipe.data, recipe.evaluation
    if isinstance(data.validation, float) and data.train is None:
        fix = "name a file of validation rows"
        yield recipe.problem(
            "data.validation", expected="a file: without data.train there is nothing to split", fix=fix
        )
    if data.validation is None:
        for field, value in (("every", evaluation.every), ("patience", evaluation.patience)):
            if isinstance(value, int):
                expected = f"{field} with validation rows: without data.validation nothing is measured while it trains"
                yield recipe.problem(
                    f"evaluation.{field}", expected=expected, fix="add data.validation: 0.1, say, or leave it out"
                )
    if "unlabeled" in data.mix.model_fields_set and (data.train is None or data.unlabeled is None):
        missing = "data.train" if data.train is None else "data.unlabeled"
        fix = f"leave it out, or add {missing}"
        yield recipe.problem("data.mix.unlabeled", expected=f"two streams to mix: {missing} is missing", fix=fix)
    if data.unlabeled_as == "labels" and data.unlabeled is None and data.augment is None:
        fix = "add data.unlabeled: FILE, or leave it out"
        yield recipe.problem("data.unlabeled_as", expected="rows that the reference can label", fix=fix)
    if "augmented" in data.mix.model_fields_set and data.augment is None:
        expected = "variants to mix in: data.augment is missing"
        yield recipe.problem("data.mix.augmented", expected=expected, fix="leave it out, or add data.augment: {}")
    if data.augment and not data.augment.word_dropout and not data.augment.crops:
        expected = "word_dropout above 0 or crops: variants would be the texts as they are"
        yield recipe.problem("data.augment", expected=expected, fix="set one of the two, or leave it out")
    if data.format is not None and (reason := registry.fault("file_formats", data.format)):
        expected = f"a file format: {reason}"
        yield recipe.problem("data.format", expected=expected, fix="correct the name, or leave it out")
    if data.labels is None:
        return
    names = list(data.labels.values() if isinstance(data.labels, dict) else data.labels)
    if len(set(names)) < 2 and not data.multi_label:
        yield recipe.problem("data.labels", expected="two names at least", fix="name every label of the data")
    for name in (name for name in data.class_weights or () if data.class_weights != "balanced" and name not in names):
        expected = f"a name of data.labels: {', '.join(map(str, names))}"
        fix = f"correct the name{nearest(name, map(str, names))}"
        yield recipe.problem(f"data.class_weights.{name}", found=shown(name), expected=expected, fix=fix)


def _source_faults(recipe: Recipe, stand_in: bool) -> Iterator[Problem]:
    """Rows of the source domain: replayed, held, or scored; none lies there for nothing."""
    source, mix, on = recipe.data.source, recipe.data.mix, recipe.objective.anchor_on
    anchors = stand_in or recipe.method == "cross-domain"
    if on != "target" and not anchors:
        expected = f"target: {recipe.method} has no source domain that could be held"
        yield recipe.problem("objective.anchor_on", expected=expected, fix="choose method: cross-domain")
    elif on in ("source", "both") and source.unlabeled is None:
        fix = "add data.source.unlabeled: FILE (the file of labelled source rows will do), or write anchor_on: target"
        yield recipe.problem("objective.anchor_on", expected="inputs of the source domain to hold", fix=fix)
    elif on == "generated" and recipe.task not in WRITING and ":" not in recipe.task:
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
    yield from _beside_faults(recipe, anchors)
    share = recipe.training.interpolate
    if isinstance(share, str) and share not in ("auto", "recommended"):
        fix = f"choose one of them{nearest(share, ('auto', 'recommended'))}"
        yield recipe.problem("training.interpolate", expected="auto, recommended, a number or null", fix=fix)
    if share == "recommended" and (source.validation is None or recipe.data.validation is None):
        expected = "data.validation and data.source.validation, on which the recommended point is found"
        yield recipe.problem("training.interpolate", expected=expected, fix="add them, or write a number")
    weight = recipe.objective.weight
    if isinstance(share, float | str) and share != "auto" and isinstance(weight, WeightRule) and not weight.confidence:
        expected = "auto: a budget chooses the point itself"
        yield recipe.problem("training.interpolate", expected=expected, fix="leave it out, or write a number as weight")
    if recipe.training.l2_sp is not None and recipe.training.lora is not None:
        expected = "no l2_sp with lora: the weights of the start are not trained"
        yield recipe.problem("training.l2_sp", expected=expected, fix="leave one of the two out")
    new = isinstance(recipe.model, NewModel)
    for field, asked in (("interpolate", isinstance(share, float) or share == "recommended"),
                         ("l2_sp", recipe.training.l2_sp is not None)):  # fmt: skip
        if asked and new:
            expected = f"no {field}: the weights of a new model are random, and nothing is to be kept of them"
            yield recipe.problem(f"training.{field}", expected=expected, fix="leave it out")


ENCODED = ("text-classification", "sentiment-analysis", "semantic-role-labeling")
"""Tasks whose head lies apart on an encoder's body."""


def _beside_faults(recipe: Recipe, anchors: bool) -> Iterator[Problem]:
    """A second head is held on one student's body, in one process, live."""
    head, source = recipe.objective.anchor_head, recipe.data.source
    if head == "task":
        return
    reasons = {
        "it holds a source model (method: cross-domain)": not anchors,
        f"{recipe.task} has no head of its own on an encoder": recipe.task not in ENCODED and ":" not in recipe.task,
        "the head is that of `model` itself (no reference is named)": recipe.reference is not None,
        "the body is trained as a whole (no lora)": recipe.training.lora is not None,
        "texts are drawn by models that write": recipe.objective.anchor_on == "generated",
        "the body is the source model's (model: a folder or a hub id)": not isinstance(recipe.model, str),
    }
    for reason in (reason for reason, holds in reasons.items() if holds):
        expected = f"task: {reason}"
        yield recipe.problem("objective.anchor_head", expected=expected, fix="write anchor_head: task, or leave it out")
    asked = {
        "train": source.train,
        **({"validation": source.validation, "test": source.test} if head != "source" else {}),
    }
    for name in (name for name, file in asked.items() if file is not None):
        expected = f"no labelled source rows: with anchor_head: {head} nothing is learnt from them, or scored"
        yield recipe.problem(f"data.source.{name}", expected=expected, fix="leave it out")


def _divergence_faults(recipe: Recipe) -> Iterator[Problem]:
    objective, name = recipe.objective, recipe.objective.divergence_name
    field = "objective.divergence" if isinstance(objective.divergence, str) else "objective.divergence.name"
    known = registry.names("divergences")
    if name not in known and ":" not in name:
        fix = f"choose one of them{nearest(name, known)}"
        yield recipe.problem(field, expected=f"one of: {', '.join(known)}", fix=fix)
    elif objective.divergence_parameters:
        yield from _parameter_faults(recipe)
    if name == "total-variation" and objective.temperature != 1:
        fix = "leave objective.temperature out, or choose another divergence"
        yield recipe.problem("objective.temperature", expected="1.0: total-variation has no T² scaling", fix=fix)


def _matching_faults(recipe: Recipe) -> Iterator[Problem]:
    """Hidden states and attention are compared with one teacher's, by a student whose weights all train."""
    asked = recipe.objective.matching
    for name in asked:
        if reason := registry.check("matching", name):
            fix = "choose a name that there is, or leave it out"
            yield recipe.problem(f"objective.matching.{name}", found=shown(name), expected=reason, fix=fix)
    if not asked:
        return
    reasons = {
        "it is a term of distillation": recipe.method != "distillation",
        "it compares the student with one teacher": len(recipe.reference_models()) > 1,
        "it needs all weights of the student": recipe.training.lora is not None,
    }
    for reason in (reason for reason, holds in reasons.items() if holds):
        yield recipe.problem("objective.matching", expected=f"no matching: {reason}", fix="leave it out")


def _parameter_faults(recipe: Recipe) -> Iterator[Problem]:
    """The divergence's own parameters, against its signature: the function is the one place that names them."""
    name = recipe.objective.divergence_name
    try:
        signature = inspect.signature(registry.find("divergences", name))
    except Exception as error:  # a module outside the package can fail in its own way when it is imported
        fix = "correct the name, or start the command where the module can be imported"
        yield recipe.problem(
            "objective.divergence.name", expected=f"a function that can be imported ({error})", fix=fix
        )
        return
    accepted = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    for parameter, value in recipe.objective.divergence_parameters.items():
        field = f"objective.divergence.{parameter}"
        expected, holds = _PARAMETER_RANGES.get(parameter, ("a number", math.isfinite))
        if parameter not in accepted:
            fix = f"leave it out{nearest(parameter, accepted)}"
            yield recipe.problem(
                field, expected=f"a parameter of {name}: {', '.join(accepted) or 'it has none'}", fix=fix
            )
        elif not holds(value):
            yield recipe.problem(field, expected=expected, fix=f"change {parameter}")


def _fine_tuning_faults(recipe: Recipe) -> Iterator[Problem]:
    """Fine-tuning is the formula's first term alone; what belongs to the second would be ignored."""
    choose = "choose method: distillation (held near a teacher) or cross-domain (near its old self), or leave it out"
    objective, default = recipe.objective, ObjectiveSpec()
    if recipe.reference is not None:
        yield recipe.problem("reference", expected="no reference: fine-tuning is held near nothing", fix=choose)
    if objective.weight not in (None, 0):
        yield recipe.problem(
            "objective.weight", expected="no weight: fine-tuning has no divergence to weigh", fix=choose
        )
    for name in ("divergence", "temperature"):
        if getattr(objective, name) != getattr(default, name):
            yield recipe.problem(f"objective.{name}", expected=f"no {name}: fine-tuning has no divergence", fix=choose)
    if recipe.data.unlabeled is not None:
        expected = "no unlabelled rows: fine-tuning learns from labels alone"
        yield recipe.problem("data.unlabeled", expected=expected, fix=choose)
    if recipe.data.augment is not None:
        expected = "no variants of texts: they have no label, and fine-tuning has no reference to speak on them"
        yield recipe.problem("data.augment", expected=expected, fix=choose)


def _anchor_faults(recipe: Recipe) -> Iterator[Problem]:
    """The second term of distillation and cross-domain fine-tuning: its reference and its weight."""
    reference = recipe.reference_spec()
    if recipe.method == "distillation" and (reference is None or reference.model is None):
        yield recipe.problem("reference", expected="a teacher: distillation needs one", fix="add reference: TEACHER")
    if isinstance(recipe.reference, ReferenceSpec):
        yield from _reference_faults(recipe, recipe.reference)
    yield from _weight_faults(recipe)


def _reference_faults(recipe: Recipe, reference: ReferenceSpec) -> Iterator[Problem]:
    models = recipe.reference_models()
    if reference.weight is not None and len(reference.weight) != len(models):
        expected = f"a weight for each of the {len(models)} models"
        fix = "they weigh the models in their average; how near the student is held is objective.weight"
        yield recipe.problem("reference.weight", expected=expected, fix=fix)
    if isinstance(reference.temperature, list) and len(reference.temperature) != len(models):
        expected = f"a temperature for each of the {len(models)} models, or one number for all"
        yield recipe.problem("reference.temperature", expected=expected, fix="change the list")
    if reference.temperature is not None and (not recipe.taught or reference.origin == "adapter-off"):
        expected = "no temperature: it calibrates a teacher; the student's old self is held to as it was"
        fix = "leave it out, or choose method: distillation without from: adapter-off"
        yield recipe.problem("reference.temperature", expected=expected, fix=fix)
    if reference.origin == "adapter-off" and (recipe.training.lora is None or models != [recipe.model]):
        expected = "training.lora, and the student's own model as reference: it is the student without its adapter"
        yield recipe.problem(
            "reference.from", expected=expected, fix="add training.lora: {rank: 16}, or write from: auto"
        )
    if reference.origin in ("online", "adapter-off"):
        defaults = ReferenceSpec()
        for name in ("cache", "form", "k", "dtype"):
            if getattr(reference, name) != getattr(defaults, name):
                expected, fix = f"no {name}: from: {reference.origin} caches nothing", "write from: cached"
                yield recipe.problem(f"reference.{name}", expected=expected, fix=fix)
    yield from _served_faults(recipe, reference)
    if reference.origin in ("cached", "served"):
        reasons = {
            "generation.on_policy": recipe.generation.on_policy > 0 and "texts that the student draws are always new",
            "objective.matching": bool(recipe.objective.matching) and "matching compares the layers of both models",
        }
        for field, reason in reasons.items():
            if reason:
                expected = f"no {field.split('.')[1]} with a {reference.origin} reference: {reason}"
                yield recipe.problem(field, expected=expected, fix="leave it out, or write from: online")
    if reference.form == "top-k" and recipe.objective.divergence_name == "logit-mse":
        expected = "full or hidden: logit-mse needs every choice's logit, and the tail of a top-k has none"
        yield recipe.problem("reference.form", expected=expected, fix="write form: hidden, or another divergence")
    wrong = {"full": ("int8",), "top-k": ("int8",), "hidden": ()}.get(reference.form, ("int8",))
    if reference.dtype in wrong:
        expected = "float32 or float16: only the head's input is kept as int8"
        yield recipe.problem("reference.dtype", expected=expected, fix="write form: hidden with it, or dtype: auto")


def _served_faults(recipe: Recipe, reference: ReferenceSpec) -> Iterator[Problem]:
    """What a server can be asked for: the likeliest tokens of a decoder's text, of one model, at temperature 1."""
    if reference.origin != "served":
        for name in ("url", "allow_host"):
            if getattr(reference, name) is not None:
                fix = "write from: served"
                yield recipe.problem(f"reference.{name}", expected=f"no {name} without from: served", fix=fix)
        return
    if reference.url is None:
        fix = "add reference.url, such as http://127.0.0.1:8000"
        yield recipe.problem("reference.url", expected="where the server is", fix=fix)
    if not isinstance(reference.model, str):
        yield recipe.problem("reference.model", expected="one model's name on the server", fix="name one")
    if reference.form not in ("auto", "top-k"):
        yield recipe.problem(
            "reference.form", expected="top-k: a server gives the likeliest tokens", fix="leave it out"
        )
    if reference.temperature is not None:
        expected = "no temperature: of a server's likeliest tokens the rest has no logits to divide"
        yield recipe.problem("reference.temperature", expected=expected, fix="leave it out")
    if recipe.objective.temperature != 1:
        expected = "1: a server gives its probabilities at temperature 1"
        yield recipe.problem("objective.temperature", expected=expected, fix="leave it out")
    if recipe.objective.divergence_name == "logit-mse":
        expected = "another divergence: logit-mse needs every choice's logit"
        yield recipe.problem("objective.divergence", expected=expected, fix="take reverse-kl or forward-kl")
    if not recipe.taught:
        expected = "a folder: the source model is loaded to be looked at, and to write"
        yield recipe.problem("reference.from", expected=expected, fix="write from: auto, or method: distillation")
    if recipe.generation.targets != "data":
        expected = "data: a server is asked for probabilities, not for texts"
        fix = "have it write them to a file, which is then data.train"
        yield recipe.problem("generation.targets", expected=expected, fix=fix)


def _weight_faults(recipe: Recipe) -> Iterator[Problem]:
    objective, rule = recipe.objective, recipe.weight_spec()
    if not isinstance(rule, WeightRule):
        return
    if len([value for value in rule.model_dump().values() if value is not None]) != 1:
        expected = "exactly one of confidence, max_kl, max_source_drop"
        yield recipe.problem("objective.weight", expected=expected, fix="keep one of them, or write a number")
    if rule.max_source_drop is not None and (recipe.taught or recipe.data.source.validation is None):
        expected = "method: cross-domain and data.source.validation, on which the drop is measured while it trains"
        yield recipe.problem("objective.weight.max_source_drop", expected=expected, fix="add data.source.validation")
    second = recipe.objective.anchor_head
    if second == "masked-lm" and (rule.max_source_drop or (rule.max_kl and not recipe.holds_target)):
        expected = "a number, or {max_kl: b} on rows of the target: of masked tokens no source rows are scored"
        yield recipe.problem("objective.weight", expected=expected, fix="write objective.weight: 1.0, say")
        return
    if rule.max_kl is not None:
        held, name = recipe.data.validation, "data.validation"
        if not recipe.holds_target:
            held, name = recipe.data.source.validation, "data.source.validation"
        if held is None and not recipe.holds_generated:
            expected = f"{name}: rows that are not trained on, on which the divergence is measured"
            yield recipe.problem("objective.weight.max_kl", expected=expected, fix=f"add {name}")
    if rule.confidence is None:
        return
    if not recipe.holds_target or recipe.objective.anchor_head != "task":
        expected = "a number: a confidence weighs the reference against labels, and what it holds has none"
        yield recipe.problem("objective.weight", expected=expected, fix="write objective.weight: 1.0, say")
        return
    found = "nothing, which is {confidence: 0.999} for cross-domain" if objective.weight is None else None
    if objective.divergence_name not in ("reverse-kl", "forward-kl"):
        expected = (
            f"a number: only reverse-kl and forward-kl turn a confidence into one, not {objective.divergence_name}"
        )
    elif objective.divergence_name == "forward-kl" and objective.temperature != 1:
        expected = "a number: forward-kl turns a confidence into one at temperature 1 only"
    elif recipe.data.train is None:
        expected = "a number: a confidence weighs the reference against labels, and there are none"
    else:
        return
    yield recipe.problem("objective.weight", found=found, expected=expected, fix="write objective.weight: 1.0, say")
