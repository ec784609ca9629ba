"""`keeltune runs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from keeltune.runs import history
from keeltune.utils.terminal import Terminal


def runs(
    folder: Annotated[Path, typer.Argument(help="Where runs lie, at any depth.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Only the list, as JSON, on stdout.")] = False,
) -> None:
    """The runs in a folder: method, score with its interval, date, identity. Any is made again by its recipe.yaml."""
    listed = history.runs(folder)
    if as_json:
        print(json.dumps(listed, allow_nan=False))
        return
    folded = [Column(name, overflow="fold") for name in ("run", "identity")]
    table = Table(
        folded[0], "method", "status", "score", "95 % interval", "seeds", "test scored", "finished", folded[1]
    )
    for run in listed:
        score = f"{run['split']} {run['metric']} {run['value']:.4f}" if run["split"] else "–"
        interval = f"{run['interval'][0]:.4f} to {run['interval'][1]:.4f}" if run["interval"] else "–"
        path = Path(run["folder"])
        name = str(path.relative_to(folder)) if path != folder else folder.name
        table.add_row(name, run["method"] or "–", run["status"] or "–", score, interval,
                      str(len(run["seeds"] or [0])), str(run["looks"]), (run["finished"] or "–")[:16].replace("T", " "),
                      run["identity"] or "–")  # fmt: skip
    Terminal().print(table)
    for run in listed:
        if run["fault"]:
            Terminal(stderr=True).print(f"unreadable: {run['fault']}")
