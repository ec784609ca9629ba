"""A model's configuration: read, and held against what this package can build and train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.models import configuration_limits
from keeltune.models.adapters import adapter_of, base_of
from keeltune.models.model_files import or_refuse
from keeltune.utils.errors import Problem, UserError, brief, shown, visible
from keeltune.utils.names import plain_name


def read_config(source: str, where: str, field: str) -> Any:
    """The model's configuration; UserError where it cannot be had, or makes no model that can be trained."""
    from transformers import AutoConfig, PreTrainedConfig

    adapter = adapter_of(source)
    stored = source if adapter is None or (adapter.folder / "config.json").is_file() else base_of(source)
    values, _ = or_refuse(lambda: PreTrainedConfig.get_config_dict(stored), source, where, field)
    if problem := configuration_limits.beyond(values):  # before its constructor counts up to it
        name, number, expected = problem
        found = f"{shown(source)}: config.json says {brief(name)}: {number}"
        fix = "correct config.json, or copy the model folder again"
        raise UserError(Problem(where, field, found, expected, fix))
    config = or_refuse(lambda: AutoConfig.from_pretrained(stored, trust_remote_code=False), source, where, field)
    if method := _quantised(config.to_dict()):
        raise UserError(_quantised_problem(source, method, where, field))
    return config


def head_names(config: Any) -> list[str] | None:
    """The label names of a model's head in their order, or None where its configuration names none."""
    id2label = getattr(config, "id2label", None)
    if not id2label:
        return None
    try:
        return [plain_name(str(id2label[i])) for i in range(len(id2label))]
    except KeyError:
        return None


BOTH_WAYS = ("xlnet", "xlm", "flaubert")
"""Architectures that read a text both ways, though their language head has the name of one that writes."""


def writes_text(config: Any) -> bool:
    """Whether a model is one that writes: what its folder holds has a language head for it; where the configuration
    names no class, whether a decoder is all that there is of its kind."""
    from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering
    from transformers.models.auto import modeling_auto

    if config.model_type in BOTH_WAYS:
        return False
    if names := getattr(config, "architectures", None):
        tables = (
            modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        )
        return any(name in table.values() for name in names for table in tables)
    cuts = type(config) in AutoModelForQuestionAnswering._model_mapping
    return not cuts and type(config) in AutoModelForCausalLM._model_mapping


def look_back(config: Any, auto_model: str) -> list[str]:
    """Has each token of a decoder see those before it alone, where that is left to `is_decoder`; says so.

    BERT's kind sees the whole text by default, so also the token that it is asked for.
    """
    decodes = auto_model == "AutoModelForCausalLM" and not getattr(config, "is_encoder_decoder", False)
    if not decodes or getattr(config, "is_decoder", True):
        return []
    config.is_decoder = True
    return [f"{config.model_type} writes as a decoder (is_decoder: true): each token sees those before it alone"]


def _quantised(values: Mapping[str, Any]) -> str | None:
    """How the weights are quantised, or None: in a configuration or in a part of it."""
    found = values.get("quantization_config")
    if found:
        return str(found.get("quant_method", "unknown")) if isinstance(found, Mapping) else "unknown"
    parts = (value for value in values.values() if isinstance(value, Mapping))
    return next((method for part in parts if (method := _quantised(part))), None)


def _quantised_problem(source: str, method: str, where: str, field: str) -> Problem:
    return Problem(
        where,
        field,
        f"{shown(source)}: quantised weights (quantization_config: {visible(method)})",
        "weights in float32, bfloat16 or float16: integers have no gradient, and what is scored is what is saved",
        "take the model that it was quantised from; or, where the library that quantised it is installed, make one: "
        "AutoModel….from_pretrained(FOLDER).dequantize().save_pretrained(FOLDER2)",
    )
