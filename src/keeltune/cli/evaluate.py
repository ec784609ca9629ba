"""`keeltune evaluate`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from keeltune.cli.app import ColumnNames, ModelOrRun, TaskName, column_names
from keeltune.utils.collection import paused_collection
from keeltune.utils.terminal import Terminal


def evaluate(
    model: ModelOrRun,
    data: Annotated[str, typer.Option("--data", help="Labelled rows: a file, a folder or hub:NAME.")],
    task: TaskName = None,
    column: ColumnNames = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="What a bare model that writes is asked: {columns} in a text, or JSON messages."),
    ] = None,
    normalizer: Annotated[
        str | None, typer.Option("--normalizer", help="How transcripts are made alike, as evaluation.normalizer.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only the result, as JSON, on stdout.")] = False,
) -> None:
    """Score a model on labelled rows, with 95 % intervals."""
    columns = column_names(column)
    with paused_collection():  # seconds of imports, after what may refuse the call
        from keeltune.runs import inference

    result = inference.evaluate(model, data, task=task, columns=columns, prompt=prompt, normalizer=normalizer)
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    table = Table("metric", "value", "95 % interval", title=f"{result['rows']} rows")
    for name, value in result["metrics"].items():
        low, high = result["intervals"][name]
        table.add_row(name, f"{value:.4f}", f"{low:.4f} to {high:.4f}")
    Terminal().print(table)
