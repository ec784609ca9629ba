"""What differs between the recipes of several runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keeltune.recipe import load, parse
from keeltune.recipe.fields import Recipe

OWN = frozenset({"output", "report"})
"""What each run has of its own, and what changes no run."""


def differing(folders: Sequence[Path]) -> dict[str, list[Any]]:
    """The fields that differ between the recipes in some run folders: {dotted field: [each run's value]}.

    A value is a number, a text, true or false, a list of these, or null where a recipe does not have the field. Paths
    are seen from the folder that all runs lie in, so that they are the same where they name the same file.
    Raises: UserError: a recipe that cannot be read.
    """
    base = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    recipes = [_flat(load(folder / "recipe.yaml"), base) for folder in folders]
    fields = dict.fromkeys(field for values in recipes for field in values)
    found = {field: [values.get(field) for values in recipes] for field in fields}
    return {field: values for field, values in found.items() if any(value != values[0] for value in values)}


def _flat(recipe: Recipe, base: Path) -> dict[str, Any]:
    """A recipe's values by their dotted fields, without those that are null."""
    written = parse(recipe.dump(base), folder=base)
    flat: dict[str, Any] = {}

    def walk(value: Any, field: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{field}.{name}" if field else str(name))
        elif value is not None:
            flat[field] = value

    walk(written.model_dump(mode="json", by_alias=True, exclude=set(OWN)), "")
    return flat
