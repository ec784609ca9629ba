"""`keeltune compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from keeltune.cli import completion
from keeltune.utils.collection import paused_collection
from keeltune.utils.files import refuse_other_file, write_text
from keeltune.utils.terminal import Terminal


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN …", help="Run folders; the first is the baseline.", autocompletion=completion.runs
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="The page to write.")] = Path("compare.html"),
    language: Annotated[str | None, typer.Option(help="en or zh; without it the runs' own, if they agree.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="Of runs of a task from a package of your own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only the comparison, as JSON, on stdout.")] = False,
) -> None:
    """Several runs of one task in one table and one picture: target against source, with paired tests."""
    refuse_other_file(output, b"<!doctype html")
    with paused_collection():  # seconds of imports, after what may refuse the call
        from keeltune.reports import comparison_page
        from keeltune.runs import comparison

    compared = comparison.compare(runs, language, task=task)
    write_text(output, comparison_page.page(compared))
    if as_json:
        print(json.dumps(compared, allow_nan=False))
        return
    console = Terminal()
    for table in comparison_page.tables(compared):
        console.print(table)
    for line in comparison_page.dominated(compared):
        console.print(f"{line}.")
    console.print(f"page: {output}")
