"""What a training whose weights lie in shards (`training.distributed.fsdp`) cannot have beside it."""

from __future__ import annotations

from collections.abc import Iterator

from keeltune.recipe.fields import Recipe
from keeltune.recipe.objective_fields import WeightRule
from keeltune.recipe.regularizer_fields import find_regularizer
from keeltune.utils.errors import Problem

OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")
"""Those that step each number of a weight by its own moments: a part is stepped as the whole would be."""

LEAVE_OUT = "leave it out, or leave training.distributed out"


def sharding_faults(recipe: Recipe) -> Iterator[Problem]:
    """Fields that a sharded training cannot serve, each with the reason."""
    training, objective = recipe.training, recipe.objective
    if training.distributed is None or training.distributed.fsdp is None:
        return
    reference = recipe.reference_spec()
    budget = isinstance(objective.weight, WeightRule) and objective.weight.confidence is None
    reasons = {
        "objective.weight": budget and "a number or {confidence: c}: a budget is measured with the start's weights",
        "objective.anchor_head": objective.anchor_head != "task" and "task: a second head shares the student's body",
        "generation.on_policy": recipe.generation.on_policy > 0
        and "0: texts of different lengths would call the layers in each process as often as its own are long",
        "training.lora.base": training.lora is not None and training.lora.base == "4bit"
        and "another base: quantised weights are not made into parts",
        "training.torch_compile": bool(training.passed.get("torch_compile"))
        and "no torch_compile: layers are gathered by hooks",
        "training.optim": str(training.passed.get("optim", OPTIMIZERS[0])) not in OPTIMIZERS
        and f"one that steps each number by itself: {', '.join(OPTIMIZERS)}",
        "reference.from": reference is not None and ":" in reference.origin
        and "a class of keeltune: what another one does with a model in parts is not known",
    }  # fmt: skip
    for field, expected in reasons.items():
        if expected:
            expectation = f"{expected} (training.distributed.fsdp)"
            yield recipe.problem(field, expected=expectation, fix=LEAVE_OUT)
    for name in training.all_regularizers:
        if ":" in name or not find_regularizer(name).shardable:
            expected = f"no {name}: it reads whole weights (training.distributed.fsdp)"
            yield recipe.problem(training.regularizer_field(name), expected=expected, fix=LEAVE_OUT)
