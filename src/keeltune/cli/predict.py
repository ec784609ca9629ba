"""`keeltune predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keeltune.cli.app import ColumnNames, ModelOrRun, TaskName, column_names
from keeltune.runs import inference, prediction_file
from keeltune.utils.terminal import Terminal


def predict(
    model: ModelOrRun,
    input_file: Annotated[str, typer.Option("--input", help="Rows to predict: a file, a folder or hub:NAME.")],
    output_file: Annotated[Path, typer.Option("--output", help="A .jsonl, .csv or .tsv file.")],
    task: TaskName = None,
    column: ColumnNames = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --output, if it is there.")] = False,
    calibrated: Annotated[bool, typer.Option(help="Probabilities at the temperature that the run fitted.")] = False,
) -> None:
    """Write each input row with its prediction and probabilities."""
    names = column_names(column)
    prediction_file.refuse_output(output_file, input_file, model, overwrite=overwrite)
    table = inference.predict(model, input_file, output_file, task=task, columns=names, calibrated=calibrated)
    Terminal(stderr=True).print(f"{len(table)} rows written to {output_file}")
