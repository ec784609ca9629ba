"""Low-rank adapters (LoRA) on a model: which layers take one, and how it is added."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from keeltune.models.loading import skeleton
from keeltune.utils.errors import Problem, nearest, shown


def is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


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
    adapted = get_peft_model(model, config)
    for held in adapted.peft_config.values():  # a set, which each process would write down in another order
        held.target_modules = (
            sorted(held.target_modules) if isinstance(held.target_modules, set) else held.target_modules
        )
    return adapted


def _linear(model: Any) -> list[str]:
    """The linear layers of the base model, by name; of all but the vocabulary head where there is no base model."""
    base = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    head = model.get_output_embeddings()
    linear = [(n, m) for n, m in model.named_modules() if is_linear(m)]
    return [n for n, m in linear if n.startswith(base) and m is not head]


def adapter_problem(config: Any, auto_model: str, modules: str | list[str], where: str) -> Problem | None:
    """What is wrong with `training.lora.target_modules` for this model, found without its weights."""
    if modules == "all-linear":
        return None
    linear = _linear(skeleton(config, auto_model, where, "training.lora.target_modules"))
    requested = [modules] if isinstance(modules, str) else modules
    try:
        patterns = [m if isinstance(modules, str) else rf"(.*\.)?{re.escape(m)}" for m in requested]
        matched = [any(re.fullmatch(pattern, name) for name in linear) for pattern in patterns]
        lost = [module for module, is_matched in zip(requested, matched, strict=True) if not is_matched]
    except re.error:
        lost = requested
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
