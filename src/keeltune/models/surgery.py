"""What is done to a loaded model before it trains: a student cut from its layers, an adapter put on, batch norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from keeltune.models.loading import Loaded, skeleton
from keeltune.models.lora import is_linear
from keeltune.recipe.model_fields import ChosenLayers
from keeltune.utils.errors import Problem, UserError

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

PARTS = ("encoder", "decoder", "text_config", "vision_config", "audio_config")
"""The names under which a configuration of several parts holds them."""


def cut_layers(loaded: Loaded, auto_model: str, layers: ChosenLayers, where: str, field: str) -> Loaded:
    """A student made of some of a model's layers, with its embeddings and head.

    A number k takes evenly spaced layers of each stack, round(linspace(0, L − 1, k)), all of a stack that has no more;
    a list takes those (from 0); {"encoder", "decoder"} chooses for each of an encoder-decoder's stacks, None all. Works
    for every architecture whose layers are a ModuleList, of both stacks where there are two. Source: the
    initialisation of DistilBART and Distil-Whisper, https://arxiv.org/abs/2010.13002.
    """
    import transformers

    chosen, config = student_config(loaded.model.config, auto_model, layers, where, field)
    student = getattr(transformers, auto_model).from_config(config, dtype=torch.float32)
    weights = loaded.model.state_dict()
    for stack, indices in chosen.items():
        old = {k: weights.pop(k) for k in list(weights) if k.startswith(f"{stack}.")}
        for new, index in enumerate(indices):
            start = f"{stack}.{index}."
            weights |= {f"{stack}.{new}.{k.removeprefix(start)}": w for k, w in old.items() if k.startswith(start)}
    lacking = [name for name in student.state_dict() if name not in weights]
    if lacking:  # T5 keeps its relative positions in layer 0 alone
        found = f"layers {layers}, without {', '.join(lacking[:3])}"
        raise UserError(Problem(where, field, found, "layers that hold all of a model", "take layer 0 too"))
    student.load_state_dict(weights)
    parts = [f"{', '.join(map(str, indices))} of {_length(loaded.model, name)}" for name, indices in chosen.items()]
    listed = parts[0] if len(set(parts)) == 1 else "; ".join(f"{p} ({n})" for n, p in zip(chosen, parts, strict=True))
    note = f"student of layers {listed} of {loaded.source}"
    return Loaded(student, loaded.processor, loaded.source, loaded.fresh, (*loaded.notes, note))


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The modules that normalise by running statistics, y = (x − μ) / √(σ² + ε) · weight + bias.

    They train in eval mode: μ and σ² stay as they are, weight and bias are trained. With the statistics of a
    micro-batch a row's loss would depend on the rows beside it, and so on how a step is cut; and the student would be
    another function while training than when it is scored, or held near a reference.
    """
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def batch_norm_notes(model: nn.Module) -> list[str]:
    """What a run says of its batch norms; nothing where there are none."""
    norms = batch_norms(model)
    if not norms:
        return []
    note = f"{len(norms)} batch norms keep their mean and variance while training; their weight and bias are trained"
    if new := sum(_is_new(norm) for norm in norms):
        note += f". New, with mean 0 and variance 1, and so no more than a scale and a shift: {new} of them"
    return [note]


def _is_new(norm: _BatchNorm) -> bool:
    assert norm.running_mean is not None and norm.running_var is not None
    return not norm.running_mean.any() and bool((norm.running_var == 1).all())


def student_config(
    config: Any, auto_model: str, layers: ChosenLayers, where: str, field: str
) -> tuple[dict[str, list[int]], Any]:
    """The chosen layers of each stack, by the stack's name, and the student's configuration. No weights.

    UserError where the model has no such layers, or none that can be chosen.
    """

    def refuse(found: str, expected: str) -> UserError:
        return UserError(Problem(where, field, found, expected, "correct `model.layers`, or train a whole model"))

    depths = stacks(skeleton(config, auto_model, where, field))
    if isinstance(layers, Mapping) and {side_of(name) for name in depths} != {"encoder", "decoder"}:
        raise refuse(f"{config.model_type}, which is no encoder beside a decoder", "a number or a list of layers")
    if not depths:
        found = f"{config.model_type}, whose layers lie in no ModuleList of the configuration's length"
        raise refuse(found, "an architecture whose layers are a ModuleList")
    asked = {name: layers.get(side_of(name)) if isinstance(layers, Mapping) else layers for name in depths}
    chosen = {}
    for name, total in depths.items():
        wanted, most = asked[name], total if isinstance(layers, Mapping) else max(depths.values())
        chosen[name] = _indices(total, wanted)
        wrong = wanted > most if isinstance(wanted, int) else not set(chosen[name]) <= set(range(total))
        if wrong or len(set(chosen[name])) != len(chosen[name]):
            last = most if isinstance(wanted, int) else total if isinstance(layers, Mapping) else min(depths.values())
            expected = f"different layers from 0 to {last - 1}, or how many of them (at most {last})"
            raise refuse(f"layers {wanted} of a model of {last}", expected)
    student = config.__class__.from_dict(config.to_dict())
    for part_name, part in (("", student), *((name, getattr(student, name, None)) for name in PARTS)):
        if part is None or isinstance(part, dict):
            continue
        for name, value in part.to_dict().items():
            depth = value if isinstance(value, int) else len(value) if isinstance(value, list) else None
            if depth is None or depth not in depths.values():
                continue
            indices = _of_field(part_name, name, depth, chosen, depths)
            if name in DEPTHS and isinstance(value, int):
                setattr(part, name, len(indices))
            elif "layer" in name and isinstance(value, list):  # one entry a layer
                setattr(part, name, [value[i] for i in indices])
    result = stacks(skeleton(student, auto_model, where, field))
    if {name: len(indices) for name, indices in chosen.items()} != {n: t for n, t in result.items() if n in chosen}:
        found = f"{config.model_type}, whose stacks of layers {depths} do not follow its configuration"
        raise refuse(found, "an architecture whose depth is one number of its configuration")
    return chosen, student


def side_of(name: str) -> str:
    """Which of an encoder-decoder's two a stack, a part or a field belongs to: what no decoder is named is encoder."""
    return "decoder" if "decoder" in name else "encoder"


def _of_field(
    part: str, field: str, depth: int, chosen: Mapping[str, list[int]], depths: Mapping[str, int]
) -> list[int]:
    """The layers that a field of the configuration counts: those of the stack of this depth; of two of one depth those
    of the side that it is named for."""
    stacks_of = [name for name, total in depths.items() if total == depth]
    named = [name for name in stacks_of if side_of(name) == side_of(f"{part} {field}")]
    return chosen[(named or stacks_of)[0]]


def _indices(total: int, wanted: int | Sequence[int] | None) -> list[int]:
    """Layers of a stack of `total`: all, so many of them spread evenly, or these."""
    if wanted is None:
        return list(range(total))
    return _even(total, min(wanted, total)) if isinstance(wanted, int) else list(wanted)


def _even(total: int, count: int) -> list[int]:
    indices: list[int] = torch.linspace(0, total - 1, count).round().int().tolist()
    return indices


def stacks(model: Any) -> dict[str, int]:
    """The outermost lists of layers and their lengths: those whose length is a depth of the configuration.

    A list of convolutions before an encoder is none, nor one inside a layer.
    """
    parts = [model.config, *(getattr(model.config, name, None) for name in PARTS)]
    depths = {getattr(part, name, None) for part in parts if part is not None for name in DEPTHS}
    lists = {name: len(m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) in depths}
    whole = {name: total for name, total in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    return {name: total for name, total in whole.items() if _attends(model.get_submodule(name))}


def drops_out(config: Any) -> bool:
    """Whether a configuration, or one of its parts, names a rate of dropout above 0."""

    def above(values: dict[Any, Any]) -> bool:
        rates = (value for name, value in values.items() if "drop" in str(name))
        parts = (value for value in values.values() if isinstance(value, dict))
        return any(isinstance(rate, float) and rate > 0 for rate in rates) or any(map(above, parts))

    return above(config.to_dict())


def _attends(layers: nn.Module) -> bool:
    """Whether all modules of a list are of one class and hold a linear layer: layers, not convolutions."""
    modules = list(layers.children())
    linear = all(any(is_linear(inner) for inner in m.modules()) for m in modules)
    return linear and len({type(m) for m in modules}) == 1


def no_attention_dropout(model: Any) -> None:
    """Switches off the dropout of attention weights: what it leaves of a head's distribution is none."""
    for module in (m for m in model.modules() if "attention" in type(m).__name__.lower()):
        for name in ("dropout", "dropout_p", "dropout_prob", "attention_dropout", "attn_dropout"):
            dropout = getattr(module, name, None)
            if isinstance(dropout, nn.Dropout):
                dropout.p = 0.0
            elif isinstance(dropout, float):
                setattr(module, name, 0.0)


def _length(model: Any, stack: str) -> int:
    return len(list(model.get_submodule(stack).children()))
