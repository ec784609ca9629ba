"""`keeltune export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from keeltune.utils.collection import paused_collection
from keeltune.utils.errors import UnequalExport
from keeltune.utils.progress import Display
from keeltune.utils.terminal import Terminal


def export(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help="onnx (float32) or int8 (the same, its weights in 8 bits).")],
    output: Annotated[
        Path | None, typer.Option("--output", help="A new folder; export/TO of the run's if it is left out.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export there.")] = False,
) -> None:
    """Write a finished run's model for onnxruntime, and prove on rows of the run that it answers alike."""
    with paused_collection():  # seconds of imports, for which a shell that completes does not wait
        from keeltune.runs import exporting

    try:
        exported = exporting.export(run, to, output, overwrite=overwrite, display=Display())
    except UnequalExport as error:
        _print(error.exported)
        raise
    _print(exported)
    Terminal().print(f"{exported.folder} answers as the run's model does")


def _print(exported: Any) -> None:
    """The proof as a table."""
    from keeltune.exporters.card import lines

    proof = exported.proof
    table = Table(
        "", "torch", proof["to"], "difference (95 % interval)", title=f"{proof['rows']} {proof['split']} rows"
    )
    for line in lines(proof):
        table.add_row(*line)
    Terminal().print(table)
