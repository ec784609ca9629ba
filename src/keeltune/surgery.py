"""What is done to a loaded model before it trains: a student cut from its layers, an adapter put on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from keeltune.models import Loaded, skeleton
from keeltune.problems import Problem, UserError, nearest, shown

DEPTHS = (
    "num_hidden_layers",
    "num_layers",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
    "n_layer",
    "n_layers",
)
"""The names under which configurations hold the number of layers of a stack."""


def cut_layers(loaded: Loaded, auto_model: str, layers: int | Sequence[int], where: str, field: str) -> Loaded:
    """A student made of some of a model's layers, with its embeddings and head.

    A number k takes evenly spaced layers, round(linspace(0, L − 1, k)); a list takes those (from 0). Works for every
    architecture whose layers are a ModuleList, of both stacks where there are two. Source: the initialisation of
    DistilBART and Distil-Whisper, https://arxiv.org/abs/2010.13002.
    """
    import transformers

    chosen, config = student_config(loaded.model.config, auto_model, layers, where, field)
    student = getattr(transformers, auto_model).from_config(config, dtype=torch.float32)
    weights = loaded.model.state_dict()
    for stack in _stacks(loaded.model, int(loaded.model.config.num_hidden_layers)):
        old = {k: weights.pop(k) for k in list(weights) if k.startswith(f"{stack}.")}
        for new, place in enumerate(chosen):
            start = f"{stack}.{place}."
            weights |= {f"{stack}.{new}.{k.removeprefix(start)}": w for k, w in old.items() if k.startswith(start)}
    student.load_state_dict(weights)
    total = loaded.model.config.num_hidden_layers
    note = f"student of layers {', '.join(map(str, chosen))} of {total} of {loaded.source}"
    return Loaded(student, loaded.processor, loaded.source, loaded.fresh, (*loaded.notes, note))


def student_config(
    config: Any, auto_model: str, layers: int | Sequence[int], where: str, field: str
) -> tuple[list[int], Any]:
    """The chosen layers and the student's configuration; UserError where the model has no such layers. No weights."""

    def refuse(found: str, expected: str) -> UserError:
        return UserError(Problem(where, field, found, expected, "correct `model.layers`, or train a whole model"))

    total = int(config.num_hidden_layers)
    even = isinstance(layers, int)
    chosen = torch.linspace(0, total - 1, layers).round().int().tolist() if even else list(layers)  # type: ignore[arg-type]
    if len(set(chosen)) != len(chosen) or not all(0 <= i < total for i in chosen):
        expected = f"different layers from 0 to {total - 1}, or how many of them (at most {total})"
        raise refuse(f"layers {layers} of a model of {total}", expected)
    teacher = skeleton(config, auto_model, where, field)
    stacks = _stacks(teacher, total)
    student = config.__class__.from_dict(config.to_dict())
    for name, value in config.to_dict().items():
        if name in DEPTHS and value == total:
            setattr(student, name, len(chosen))
        elif "layer" in name and isinstance(value, list) and len(value) == total:  # one entry a layer
            setattr(student, name, [value[i] for i in chosen])
    student.num_hidden_layers = len(chosen)
    made = _stacks(skeleton(student, auto_model, where, field), len(chosen))
    if not stacks or not set(stacks) <= set(made):
        found = f"{config.model_type}, whose {total} layers lie in no ModuleList of {total}"
        raise refuse(found, "an architecture whose layers are a ModuleList")
    return chosen, student


def _stacks(model: nn.Module, total: int) -> list[str]:
    """The names of the outermost lists of `total` layers."""
    found = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == total]
    return [name for name in found if not any(name.startswith(f"{other}.") for other in found)]


def add_adapter(
    model: Any,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    modules: str | list[str] = "all-linear",
    train_head: bool = True,
) -> Any:
    """LoRA on linear layers of the base model, all of them unless `modules` names some.

    With `train_head` the modules outside the base model, a task's head, are trained whole; a vocabulary head is not.

    The adapter starts at zero: the model computes what it did.

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    linear = _linear(model)
    base = model.base_model_prefix
    heads = [n for n, m in model.named_children() if train_head and n != base and any(True for _ in m.parameters())]
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=linear if modules == "all-linear" else modules,
        modules_to_save=heads or None,
        fan_in_fan_out=any(isinstance(m, Conv1D) for n, m in model.named_modules() if n in linear),
        task_type="SEQ_CLS" if classifies else None,
    )
    return get_peft_model(model, config)


def _linear(model: Any) -> list[str]:
    """The linear layers of the base model, by name; of all but the vocabulary head where there is no base model."""
    from transformers.pytorch_utils import Conv1D

    base = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    head = model.get_output_embeddings()
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    return [n for n, m in linear if n.startswith(base) and m is not head]


def adapter_problem(config: Any, auto_model: str, modules: str | list[str], where: str) -> Problem | None:
    """What is wrong with `training.lora.target_modules` for this model, found without its weights."""
    if modules == "all-linear":
        return None
    linear = _linear(skeleton(config, auto_model, where, "training.lora.target_modules"))
    asked = [modules] if isinstance(modules, str) else modules
    try:
        patterns = [m if isinstance(modules, str) else rf"(.*\.)?{re.escape(m)}" for m in asked]
        lost = [m for m, p in zip(asked, patterns, strict=True) if not any(re.fullmatch(p, name) for name in linear)]
    except re.error:
        lost = asked
    if not lost:
        return None
    names = sorted({name.rsplit(".", 1)[-1] for name in linear})
    return Problem(
        where,
        "training.lora.target_modules",
        shown(lost if len(lost) > 1 else lost[0]),
        f"all-linear, or linear layers of the model: {', '.join(names)}",
        f"correct the name{nearest(lost[0], names)}",
    )
