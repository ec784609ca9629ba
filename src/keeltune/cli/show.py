"""`keeltune show`."""

from __future__ import annotations

from typing import Annotated

import typer

from keeltune.cli.app import Overrides, RecipeFile
from keeltune.recipe import load
from keeltune.utils.collection import paused_collection
from keeltune.utils.terminal import Terminal


def show(
    recipe: RecipeFile,
    overrides: Overrides = None,
    row: Annotated[int, typer.Option("--row", min=1, help="Which training row, from 1.")] = 1,
) -> None:
    """One real row's journey: fields, tensors with shapes, loss terms."""
    loaded = load(recipe, overrides or [])
    with paused_collection():  # seconds of imports, after all that may refuse the call
        from keeltune.cli.row_journey import show_row

    show_row(loaded, row, Terminal())
