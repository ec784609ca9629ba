"""What is exported, and to what: encoders with a head and models that write, in float32 or with weights of 8 bits.

    onnx      the model's own graph, or graphs, float32
    int8      the same, its weights in 8 bits (`int8.py`)

A decoder that sees or hears within its text, and a decoder with a head, are refused in words.
"""

from __future__ import annotations

from typing import Any

from keeltune.models import libraries
from keeltune.tasks.families.sequence_classification import SequenceClassification
from keeltune.tasks.families.sequence_labeling import SequenceLabeling
from keeltune.tasks.families.sequence_regression import SequenceRegression
from keeltune.tasks.families.span_extraction import SpanExtraction
from keeltune.tasks.task import Task
from keeltune.utils.errors import Problem, UserError, nearest, shown

FORMATS = ("onnx", "int8")

LACKING = {
    "litert": "no converter keeps the sizes of a text open: one graph a length, each to be proved",
    "saved-model": "TensorFlow has no converter of a PyTorch graph that is kept up",
    "gguf": "its converter knows architectures by name, and is no library",
}
"""Formats that are asked for, and why they are not written."""

ALONE = ("int8",)
"""Those that are asked row by row."""

FAMILIES = (SequenceClassification, SequenceRegression, SequenceLabeling, SpanExtraction)
"""Whose predictions are read off one forward pass of an encoder."""

LIBRARIES = ("onnx", "onnxruntime", "onnxscript")


def refuse_format(to: str) -> None:
    """UserError for a format that there is not, or where a library for it is missing."""
    if to not in FORMATS:
        expected, found = " or ".join(FORMATS), shown(to)
        if to in LACKING:
            found = f"{found}, which is not written: {LACKING[to]}"
        raise UserError(Problem("the call", "--to", found, expected, f"name one of them{nearest(to, FORMATS)}"))
    if missing := [libraries.package(name) for name in LIBRARIES if not libraries.installed(name)]:
        expected = "the libraries that write and run the graph"
        raise UserError(Problem("the call", "--to", f"no {', '.join(missing)}", expected, libraries.install("export")))


def refuse_uncovered(task: Task, name: str, config: Any, where: str) -> None:
    """UserError for a model that is neither an encoder with a head nor one that writes and is covered."""
    expected = "an encoder with a head, a model that writes, a CTC model, or a vision encoder-decoder"
    fix = f"use {where} with transformers, as its card says"
    if task.generates:
        if task.reads == "image" and config.model_type != "vision-encoder-decoder":
            found = f"{config.model_type}, which reads a picture within its text and is not exported yet"
            raise UserError(Problem(where, "model", found, expected, fix))
        return
    if not isinstance(task, FAMILIES):
        raise UserError(Problem(where, "task", f"a model for {name}, which is not exported yet", expected, fix))
    if not is_encoder(config):
        kind = "an encoder-decoder with a head" if config.is_encoder_decoder else "a decoder with a head"
        found = f"{config.model_type}, {kind}, which is not exported yet"
        raise UserError(Problem(where, "model", found, expected, fix))


def writes_by_token(task: Any, config: Any) -> bool:
    """Whether a task's texts (it, or its class) are written token by token, by a model of this configuration."""
    spells = task.reads == "sound" and not config.is_encoder_decoder  # CTC: its frames say letters
    return bool(task.generates) and not spells


def is_encoder(config: Any) -> bool:
    """Whether a model is of those that were made to fill gaps: each token sees those on both sides of it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    two_sides = getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False)
    return not two_sides and config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
