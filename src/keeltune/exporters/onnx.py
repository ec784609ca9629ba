"""A model's graph as an ONNX file, of any number of rows and tokens.

The graph is that which `torch.export` finds in the model itself, so that nothing of an architecture is written a second
time here. Inputs and outputs have the names that transformers gives them, their axes `batch` and `sequence`.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from keeltune.tasks.common.padding_effect import OUTPUTS
from keeltune.utils.errors import Problem, UserError, brief

FILE = "model.onnx"

LARGEST = 1_900_000_000
"""Bytes of weights from which they lie in a file beside the graph: a protobuf holds two gigabytes."""


class _Named(nn.Module):
    """A model whose inputs have places in place of names, and whose outputs are a tuple."""

    def __init__(self, model: Any, inputs: Sequence[str], outputs: Sequence[str]):
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        read = self.model(**dict(zip(self.inputs, given, strict=True)))
        return tuple(getattr(read, name) for name in self.outputs)


def write_onnx(model: Any, inputs: Mapping[str, Tensor], file: Path, where: str) -> None:
    """Writes the graph of a float32 model in eval mode; `inputs` [B, S] are two rows or more, of uneven length.

    Raises: UserError: a model whose graph torch cannot follow.
    """
    with torch.no_grad():
        read = model(**inputs)
    outputs = [name for name in OUTPUTS if getattr(read, name, None) is not None]
    named = _Named(model, list(inputs), outputs)
    write_graph(named, inputs, outputs, [{0: "batch", 1: "sequence"} for _ in inputs], file, where)


def write_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    axes: Sequence[Mapping[int, str]],
    file: Path,
    where: str,
) -> None:
    """Writes what a module makes of named inputs; `axes` [inputs]: the dimensions of each that have any size.

    Raises: UserError: a model whose graph torch cannot follow.
    """
    weights = sum(weight.numel() * weight.element_size() for weight in module.state_dict().values())
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                file,
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=(tuple(dict(sizes) for sizes in axes),),
                external_data=weights > LARGEST,
            )
    except (torch.onnx.OnnxExporterError, torch.onnx.errors.OnnxExporterError) as error:
        found = f"a graph that torch cannot follow: {brief(str(error).strip(), 200)}"
        expected, fix = "a model that torch.onnx.export can write", f"use {where} with transformers, as its card says"
        raise UserError(Problem(where, "model", found, expected, fix)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Within: what torch's exporter says of itself stays unsaid: libraries that it misses, steps that it takes."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
