"""`keeltune curve`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from keeltune.cli.app import Overrides, RecipeFile
from keeltune.recipe import load
from keeltune.utils.collection import paused_collection
from keeltune.utils.terminal import Terminal


def curve(
    recipe: RecipeFile,
    overrides: Overrides = None,
    share: Annotated[list[float] | None, typer.Option("--share", help="A share of the rows; several times.")] = None,
    draws: Annotated[
        int | None,
        typer.Option(min=1, help="Trainings of each share below the whole, each on other rows; two where short."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only the result, as JSON, on stdout.")] = False,
) -> None:
    """Would more rows help? Train on shares of the rows, as long as on all, and predict the score of twice as many."""
    loaded = load(recipe, overrides or [])
    with paused_collection():  # seconds of imports, after what may refuse the call
        from keeltune.advisor import learning_curve

    card = learning_curve.curve(loaded, share or learning_curve.SHARES, draws)
    if as_json:
        print(json.dumps(card, allow_nan=False))
        return
    table = Table("training rows", card["metric"], "95 % interval")
    for point in card["points"]:
        low, high = point["interval"]
        table.add_row(str(point["rows"]), f"{point['value']:.4f}", f"{low:.4f} to {high:.4f}")
    if twice := card["twice"]:
        low, high = twice["interval"]
        table.add_row(f"{twice['rows']}, predicted", f"{twice['value']:.4f}", f"{low:.4f} to {high:.4f}")
    console = Terminal()
    console.print(table)
    console.print(card["verdict"])
    console.print(f"page: {loaded.path(loaded.output) / 'curve.html'}")
