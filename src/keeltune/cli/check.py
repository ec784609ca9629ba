"""`keeltune check`."""

from __future__ import annotations

from typing import Annotated

import typer

from keeltune.cli.app import Overrides, RecipeFile
from keeltune.recipe import load
from keeltune.utils.collection import paused_collection
from keeltune.utils.terminal import Terminal

Plan = Annotated[
    str | None,
    typer.Option(
        "--plan", metavar="NxGPU", help="What it would need on other machines, such as 8xH100; no weight is at hand."
    ),
]


def check(recipe: RecipeFile, overrides: Overrides = None, plan: Plan = None) -> None:
    """Every problem of the recipe and its data, all at once, before any training; then what it will cost."""
    loaded = load(recipe, overrides or [])
    with paused_collection():  # seconds of imports, after all that may refuse the call
        from keeltune.cli.recipe_check import check_recipe

    check_recipe(loaded, Terminal(), plan)
