"""A recipe holds no secret: it is copied into run folders, reports and logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from keeltune.recipe.fields import Recipe
from keeltune.recipe.yaml_values import Key
from keeltune.utils.errors import Problem
from keeltune.utils.sanitization import HIDDEN, holds_secret, is_secret

NAMED_BY_USERS = "data"
"""The section whose names are the columns and labels of the user's own rows."""


def secret_faults(recipe: Recipe) -> Iterator[Problem]:
    """Values that are secrets by their shape (a token, a password in an address) or by their field's name."""
    for field, value in _texts(recipe.model_dump(by_alias=True, exclude_unset=True)):
        named = field[0] != NAMED_BY_USERS and is_secret(str(field[-1]))
        if named or holds_secret(value):
            expected = "no secret: a recipe is copied into the run folder and its report"
            fix = "take it out, and change it where it was used: a key belongs in the environment (HF_TOKEN, "
            fix += "KEELTUNE_REFERENCE_KEY)"
            name = ".".join(map(str, field))
            yield recipe.problem(name, found=f"a secret ({HIDDEN})", expected=expected, fix=fix)


def _texts(value: Any, field: Key = ()) -> Iterator[tuple[Key, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, (*field, name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, (*field, number))
    elif isinstance(value, str):
        yield field, value
