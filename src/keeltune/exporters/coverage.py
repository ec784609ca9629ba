"""What is exported, and to what: encoders with a head, as ONNX graphs in float32 or with weights of 8 bits.

    onnx      the model's own graph, float32
    int8      the same, its weights in 8 bits (`int8.py`)

What writes, listens or sees is not covered yet, nor is a decoder with a head: each is refused in words.
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

ALONE = ("int8",)
"""Those that are asked row by row."""

FAMILIES = (SequenceClassification, SequenceRegression, SequenceLabeling, SpanExtraction)
"""Whose predictions are read off one forward pass of an encoder."""

LIBRARIES = ("onnx", "onnxruntime", "onnxscript")


def refuse_format(to: str) -> None:
    """UserError for a format that there is not, or where a library for it is missing."""
    if to not in FORMATS:
        expected = " or ".join(FORMATS)
        raise UserError(Problem("the call", "--to", shown(to), expected, f"name one of them{nearest(to, FORMATS)}"))
    if missing := [libraries.package(name) for name in LIBRARIES if not libraries.installed(name)]:
        expected = "the libraries that write and run the graph"
        raise UserError(Problem("the call", "--to", f"no {', '.join(missing)}", expected, libraries.install("export")))


def refuse_uncovered(task: Task, name: str, config: Any, where: str) -> None:
    """UserError for a model that is no encoder with a head."""
    expected = "an encoder with a head: text classification, sentiment analysis, regression, tags, or answers in a text"
    fix = f"use {where} with transformers, as its card says"
    if not isinstance(task, FAMILIES):
        raise UserError(Problem(where, "task", f"a model for {name}, which is not exported yet", expected, fix))
    if not is_encoder(config):
        kind = "an encoder-decoder" if config.is_encoder_decoder else "no encoder"
        found = f"{config.model_type}, {kind}, which is not exported yet"
        raise UserError(Problem(where, "model", found, expected, fix))


def is_encoder(config: Any) -> bool:
    """Whether a model is of those that were made to fill gaps: each token sees those on both sides of it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    two_sides = getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False)
    return not two_sides and config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
