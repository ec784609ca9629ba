"""`keeltune check`."""

from __future__ import annotations

from keeltune.cli.app import Overrides, RecipeFile
from keeltune.recipe import load
from keeltune.utils.collection import paused_collection
from keeltune.utils.terminal import Terminal


def check(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Every problem of the recipe and its data, all at once, before any training; then what it will cost."""
    loaded = load(recipe, overrides or [])
    with paused_collection():  # seconds of imports, after all that may refuse the call
        from keeltune.cli.recipe_check import check_recipe

    check_recipe(loaded, Terminal())
