"""What a recipe may say of training: one measure of its length, and the fields that are passed to TrainingArguments."""

from __future__ import annotations

import enum
import inspect
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from keeltune.recipe.field_types import expectation
from keeltune.recipe.fields import Recipe
from keeltune.recipe.other_names import FAMILIES, other_name
from keeltune.recipe.regularizer_fields import find_regularizer
from keeltune.recipe.training_fields import Training
from keeltune.recipe.yaml_document import seen
from keeltune.utils.errors import Problem, nearest


def training_faults(recipe: Recipe) -> Iterator[Problem]:
    training = recipe.training
    for usual, other in (("epochs", "max_steps"), ("batch_size", "tokens_per_batch")):
        written = [name for name in (usual, other) if getattr(training, name) is not None]
        if len(written) != 1:
            location = f" ({usual} stands at {recipe.where(f'training.{usual}')})" if written else ""
            expected = f"either {usual} or {other}{location}"
            field = f"training.{other if written else usual}"
            yield recipe.problem(field, expected=expected, fix="keep exactly one of the two")
    if training.lora is not None and training.lora.base == "4bit":
        yield from _four_bit_faults(recipe)
    if training.attention.startswith("flash") and training.precision == "fp32":
        expected = "another attention: this one takes half precision alone, and precision is fp32"
        yield recipe.problem("training.attention", expected=expected, fix="write precision: bf16, or attention: sdpa")
    if training.passed:
        yield from _passed_faults(recipe)
    yield from _regularizer_faults(recipe)


def _four_bit_faults(recipe: Recipe) -> Iterator[Problem]:
    """What a quantised base cannot be: a part of a model, a new one, or the body of two heads."""
    if not isinstance(recipe.model, str):
        expected = "another base: only a whole model that was trained is quantised"
        yield recipe.problem("training.lora.base", expected=expected, fix="write base: bf16")
    if recipe.objective.anchor_head != "task":
        expected = "another base: a second head reads the body as it is stored at the end"
        yield recipe.problem("training.lora.base", expected=expected, fix="write base: bf16")


def _regularizer_faults(recipe: Recipe) -> Iterator[Problem]:
    """Regularisers that have no meaning in this recipe, as each says itself.

    What the model and the task make of them is known when the data is prepared (`training/regularization.py`); and so
    is whether one from outside the package can be had.
    """
    training = recipe.training
    if training.l2_sp is not None and "l2_sp" in training.regularizers.used:
        expected = f"l2_sp once (it stands at {recipe.where('training.regularizers.l2_sp')} too)"
        yield recipe.problem("training.l2_sp", expected=expected, fix="keep one of the two")
    for name, value in training.all_regularizers.items():
        if ":" not in name:
            for refusal in find_regularizer(name)(value).refused(recipe, None):
                yield recipe.problem(
                    training.regularizer_field(name), expected=refusal.expected, fix=refusal.fix, found=refusal.found
                )


_UNFIT = ("reduce_lr_on_plateau", "greedy", "best")
"""Choices that need the stock Trainer's own evaluation."""

_MORE_THAN_ZERO = ("save_steps", "logging_steps", "save_total_limit", "adam_epsilon", "dataloader_prefetch_factor")


def _passed_faults(recipe: Recipe) -> Iterator[Problem]:
    """The passed fields, first one by one, then together by making the TrainingArguments themselves."""
    from transformers import TrainingArguments  # here, since it takes seconds and few recipes pass anything

    hints = get_type_hints(TrainingArguments)
    good: dict[str, Any] = {}
    for name, value in recipe.training.passed.items():
        fault = _name_fault(name, hints) or _value_fault(name, value, hints[name])
        if fault:
            expected, fix = fault
            yield recipe.problem(f"training.{name}", found=seen(value), expected=expected, fix=fix)
        else:
            good[name] = value

    if not good:
        return

    class Arguments(TrainingArguments):
        @property
        def device(self) -> Any:
            """None: to look for the device would start the process group."""

    try:
        with warnings.catch_warnings(action="ignore"):
            _try_schedule(Arguments(output_dir=recipe.output, **good))
    except Exception as error:  # whatever it is, it is how the library refuses these values
        reason = " ".join(str(error).split())
        named = [name for name in good if re.search(rf"\b{name}\b", reason)]
        field = next(name for name in (*named, "lr_scheduler_kwargs", "lr_scheduler_type", *good) if name in good)
        expected, fix = f"what TrainingArguments accepts: {reason}", "change it, or leave it out"
        yield recipe.problem(f"training.{field}", expected=expected, fix=fix)


def _name_fault(name: str, known: Mapping[str, Any]) -> tuple[str, str] | None:
    if fault := other_name("training", name):
        return fault
    if name in known and (
        reason := next((reason for start, reason in FAMILIES.items() if name.startswith(start)), None)
    ):
        return f"no {name}: {reason}", "leave it out"
    if name not in known:
        names = [*Training.model_fields, *(field for field in known if not _name_fault(field, known))]
        expected = "a field of the recipe's training, or of transformers.TrainingArguments"
        return expected, f"leave it out{nearest(name, names)}"
    return None


def _value_fault(name: str, value: Any, hint: Any) -> tuple[str, str] | None:
    names = [choice for choice in _choices(name, hint) if choice not in _UNFIT]
    if names and value not in names:
        return f"one of: {', '.join(names)}", f"choose one of them{nearest(value, names)}"
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        return " or ".join(dict.fromkeys(map(expectation, error.errors()))), "write a value of that kind"
    if isinstance(value, (int, float)) and (not math.isfinite(value) or value < 0):
        return "a finite number that is not negative", f"change {name}"
    if name in _MORE_THAN_ZERO and value == 0:
        return "a number greater than 0", f"change {name}"
    if name in ("adam_beta1", "adam_beta2") and value >= 1:
        return "a number less than 1", f"change {name}"
    if name.endswith("_checkpointing_kwargs") and isinstance(value, dict) and value.get("use_reentrant"):
        return "no use_reentrant: with it a layer above frozen ones, or an adapter's, is not learnt", "leave it out"
    return _tracker_fault(value) if name == "report_to" else None


def _choices(name: str, hint: Any) -> list[str]:
    """The words that a field of TrainingArguments takes, where it takes only some."""
    from transformers import TrainingArguments

    for kind in get_args(hint):
        if inspect.isclass(kind) and issubclass(kind, enum.Enum):
            return [str(choice.value) for choice in kind]
    return list(TrainingArguments.__dataclass_fields__[name].metadata.get("choices", ()))


def _tracker_fault(value: Any) -> tuple[str, str] | None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK as KNOWN
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    names = [value] if isinstance(value, str) else value or []
    for name in (name for name in names if name not in ("none", "all")):
        if name not in KNOWN:
            return f"none, all, or one of: {', '.join(KNOWN)}", f"choose one of them{nearest(name, KNOWN)}"
        if name not in get_available_reporting_integrations():
            installed = "pip install 'keeltune[tracking]'" if name == "tensorboard" else f"install {name}"
            return f"a tracker that is installed: {name} is not", f"{installed}, or leave it out"
    return None


def _try_schedule(arguments: Any) -> None:
    """Make the learning-rate schedule once: its own keywords are checked nowhere else before training."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    extra = arguments.lr_scheduler_kwargs or {}
    get_scheduler(arguments.lr_scheduler_type, optimizer, 1, 10, scheduler_specific_kwargs=extra)
