"""Low-rank adapters (LoRA) on a model: which layers take one, and how it is added."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from keeltune.models.half_precision import HALF, reads_in_its_dtype, train_in_float32
from keeltune.models.loading import skeleton
from keeltune.recipe.training_fields import Lora
from keeltune.utils.errors import Problem, UserError, nearest, shown


def is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def add_adapter(model: Any, lora: Lora, *, train_head: bool = True, fresh: Sequence[str] = ()) -> Any:
    """LoRA (DoRA, rsLoRA) on linear layers of the base model, all of them unless the recipe names some.

    With `train_head` the modules outside the base model, a task's head, are trained whole; a vocabulary head is not.
    Modules of weights that no checkpoint held (`fresh`: a pooler, a head of letters) are trained whole in any case:
    what is random is not learnt by a change of low rank. What trains is float32, whatever holds the frozen weights.

    The adapter starts at zero: the model computes what it did.

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685; Liu et al. 2024, https://arxiv.org/abs/2402.09353;
    Kalajdzievski 2023, https://arxiv.org/abs/2312.03732.
    """
    from peft import LoraConfig, get_peft_model
    from peft.utils import ModulesToSaveWrapper
    from transformers.pytorch_utils import Conv1D

    whole = _trained_whole(model, train_head, fresh)
    linear = [name for name in _linear(model) if not any(name == w or name.startswith(f"{w}.") for w in whole)]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.factor_alpha,
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        use_rslora=lora.rslora,
        target_modules=linear if lora.target_modules == "all-linear" else lora.target_modules,
        modules_to_save=whole or None,
        fan_in_fan_out=any(isinstance(m, Conv1D) for n, m in model.named_modules() if n in linear),
        task_type="SEQ_CLS" if type(model).__name__.endswith("ForSequenceClassification") else None,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # of a picture's encoder before GPT-2
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            found = f"{shown(lora.target_modules)}: none of these is left, as {', '.join(whole)} are trained whole"
            fix = "name other layers, or write all-linear"
            where, expected = "the recipe", "linear layers for the adapter to lie on"
            raise UserError(Problem(where, "training.lora.target_modules", found, expected, fix)) from error
    for held in adapted.peft_config.values():  # a set, which each process would write down in another order
        held.target_modules = (
            sorted(held.target_modules) if isinstance(held.target_modules, set) else held.target_modules
        )
    if any(weight.dtype in HALF for weight in adapted.parameters()):
        train_in_float32(adapted)
        for module in [m for m in adapted.modules() if isinstance(m, ModulesToSaveWrapper)]:
            for trained in module.modules_to_save.values():
                reads_in_its_dtype(trained)
    return adapted


def load_adapter(model: Any, trained: Any) -> None:
    """The adapter of `trained`, and what it trained whole, into a model that has the same one."""
    import peft

    state = peft.get_peft_model_state_dict(trained, save_embedding_layers=False)
    peft.set_peft_model_state_dict(model, state)


def _trained_whole(model: Any, train_head: bool, fresh: Sequence[str]) -> list[str]:
    """The modules outside the base model, and those that no checkpoint held."""
    base = model.base_model_prefix
    heads = [n for n, m in model.named_children() if train_head and n != base and any(True for _ in m.parameters())]
    new = sorted({name.rpartition(".")[0] for name in fresh} - {""})
    return [*heads, *(n for n in new if not any(n == head or n.startswith(f"{head}.") for head in heads))]


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
