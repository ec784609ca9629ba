"""How a model was trained, in sentences: the method, and the regularisers that were on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.recipe.regularizer_fields import find_regularizer, regularizer_names
from keeltune.utils.messages import Message, joined

METHODS = {
    "fine-tuning": "The model was fine-tuned on the training rows, without a reference.",
    "distillation": "The model was trained on the training rows while held near a teacher.",
    "cross-domain": "The model was trained on the new domain while held near the source-domain model.",
}


OURS = frozenset({None, "none", "model", "ensemble", "adapter-off", "cached", "served"})
"""Kinds of reference that the method's sentence is true of: a teacher, or the source-domain model."""


def findings(result: Mapping[str, Any]) -> list[str]:
    """The method, the regularisers where there were any, and what the recipe left open."""
    training = result["training"] or {}
    phrases = training.get("regularizer_phrases") or {}
    parts = [
        _regularizer(name, value, phrases.get(name)) for name, value in (training.get("regularizers") or {}).items()
    ]
    regularized = [Message("Regularised by: {parts}.", parts=joined(parts, ", "))] if parts else []
    return [
        METHODS[result["method"]],
        *_own_reference(result),
        *_parameters(training),
        *regularized,
        *_left_open(result),
    ]


def _parameters(training: Mapping[str, Any]) -> list[str]:
    """How many parameters were trained of all, and as what."""
    if not training.get("parameters"):
        return []
    trained, all_of_them, lora = training["trained_parameters"], training["parameters"], training.get("lora")
    counts = {"trained": trained, "all": all_of_them, "share": trained / all_of_them}
    if lora:
        modules = lora["modules"] if isinstance(lora["modules"], str) else ", ".join(lora["modules"])
        template = "LoRA of rank {rank} on {modules}: {trained:,} of {all:,} parameters were trained ({share:.2%})."
        return [Message(template, rank=lora["rank"], modules=modules, **counts)]
    if trained == all_of_them:
        return [Message("All {all:,} parameters were trained.", all=all_of_them)]
    return [Message("{trained:,} of {all:,} parameters were trained ({share:.2%}).", **counts)]


def _left_open(result: Mapping[str, Any]) -> list[str]:
    """The values that keeltune chose, and why."""
    parts = [
        Message("{field} {value:.4g} ({reason})", field=field, value=of["value"], reason=of["reason"])
        for field, of in (result.get("defaults") or {}).items()
    ]
    return [Message("Not named in the recipe, and chosen: {parts}.", parts=joined(parts, "; "))] if parts else []


def _own_reference(result: Mapping[str, Any]) -> list[str]:
    """What stood in the reference's place, where it is neither a model nor a model's answers."""
    kind = (result.get("reference") or {}).get("kind")
    return [] if kind in OURS else [Message("The reference was {name}.", name=kind)]


def _regularizer(name: str, value: Any, phrase: str | None) -> str:
    """What a run says of one that was on: as its file on the shelf has it, else as the result does.

    A result of another version may name one that there is no file of; one from outside is not imported for a page.
    """
    shown = f"{value:g}" if isinstance(value, int | float) else str(value)
    if name in regularizer_names():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else shown
        return Message(find_regularizer(name).phrase, value=shown)
    return phrase or Message("{name} ({value})", name=name, value=shown)
