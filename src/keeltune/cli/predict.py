"""`keeltune predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from keeltune.cli.app import ColumnNames, ModelOrRun, TaskName, column_names
from keeltune.utils.collection import paused_collection
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.terminal import Terminal

Texts = Annotated[
    list[str] | None,
    typer.Option("--text", help="A text to predict, or a row as JSON, as often as wanted."),
]


def predict(
    model: ModelOrRun,
    input_file: Annotated[
        str | None,
        typer.Option("--input", help="Rows to predict: a file, a folder, hub:NAME, or - for lines of standard input."),
    ] = None,
    output_file: Annotated[
        Path | None, typer.Option("--output", help="A .jsonl, .csv or .tsv file. Left out: JSON lines are printed.")
    ] = None,
    text: Texts = None,
    task: TaskName = None,
    column: ColumnNames = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --output, if it is there.")] = False,
    calibrated: Annotated[bool, typer.Option(help="Probabilities at the temperature that the run fitted.")] = False,
) -> None:
    """Write each input row with its prediction and probabilities."""
    names = column_names(column)
    source = _one_source(input_file, text)
    with paused_collection():  # seconds of imports, after what may refuse the call
        from keeltune.runs import inference, loaded_model, prediction_file

    if output_file is not None:
        of_file = source if isinstance(source, str) else ""
        prediction_file.refuse_output(output_file, of_file, model, overwrite=overwrite)
    if isinstance(source, str):
        table = inference.predict(model, source, output_file, task=task, columns=names, calibrated=calibrated)
    else:
        table = loaded_model.load(model, task, calibrated=calibrated)(source, names)
        if output_file is not None:
            prediction_file.write(output_file, table)
    if output_file is None:
        for line in table:
            print(_printable(json.dumps(line, ensure_ascii=False)))
    else:
        Terminal(stderr=True).print(f"{len(table)} rows written to {output_file}")


def _one_source(input_file: str | None, texts: list[str] | None) -> str | list[Any]:
    """The file's name, or what was typed or piped in; UserError unless it is one of them."""
    if (input_file is None) == (not texts):
        found = "neither --text nor --input" if input_file is None else "both --text and --input"
        raise UserError(Problem("the call", "", found, "one of them", "give rows by a file, by - or by --text"))
    if texts:
        return [_row(text) for text in texts]
    assert input_file is not None
    return list(_piped()) if input_file == "-" else input_file


def _printable(line: str) -> str:
    """The same JSON, what a terminal does not print (control codes, marks of direction) as its escape."""
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _piped() -> Iterator[Any]:
    """A row for each line of standard input that is not empty."""
    for line in sys.stdin:
        if line.strip():
            yield _row(line.rstrip("\r\n"))


def _row(text: str) -> Any:
    """A JSON object as the row that it is, any other text as a text."""
    if text.lstrip().startswith("{"):
        try:
            row = json.loads(text)
        except ValueError:
            return text
        return row if isinstance(row, dict) else text
    return text
