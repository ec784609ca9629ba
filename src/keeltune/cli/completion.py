"""What a shell offers for what has been typed so far: runs, recipes, a recipe's fields and their values.

`keeltune --install-completion` asks for it (bash, zsh, fish). Nothing is read but the names of files.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keeltune.utils import registry

DEPTH = 3
"""Folders below the one that is typed in which runs and recipes are looked for."""

MOST = 200


def runs(incomplete: str) -> list[str]:
    """Folders of runs."""
    return _folders(incomplete, ("result.json",))


def models(incomplete: str) -> list[str]:
    """Folders of runs and of models."""
    return _folders(incomplete, ("result.json", "config.json"))


def recipes(incomplete: str) -> list[str]:
    """YAML files."""
    found = (path for path in _below(incomplete, "*.y*ml") if path.suffix in (".yaml", ".yml"))
    return _offered(found, incomplete)


def tasks(incomplete: str) -> list[str]:
    """The tasks."""
    return [name for name in registry.names("tasks") if name.startswith(incomplete)]


def overrides(args: list[str], incomplete: str) -> list[str]:
    """A recipe's fields with `=`, and behind it the values where they are a few words.

    bash cuts words at `=`: there `task=te` is `task`, `=` and `te`.
    """
    if incomplete == "=" or args[-1:] == ["="]:
        field, value, shown = (args[-1], "", "") if incomplete == "=" else (args[-2], incomplete, "")
    else:
        field, equals, value = incomplete.partition("=")
        shown = f"{field}="
        if not equals:
            from keeltune.recipe.loading import all_fields

            return [f"{name}=" for name in map(".".join, all_fields()) if name.startswith(field)]
    return [f"{shown}{word}" for word in _words(field) if word.startswith(value)]


def _words(field: str) -> list[str]:
    """The words that a field takes, as the recipe's schema lists them."""
    from keeltune.recipe import json_schema

    shelves = {"task": "tasks", "objective.divergence": "divergences", "evaluation.metrics": "metrics"}
    if field in shelves:
        return registry.names(shelves[field])
    schema = json_schema()
    found = schema
    for step in field.split("."):
        properties = _resolved(found, schema).get("properties", {})
        if step not in properties:
            return []
        found = properties[step]
    branches = [found, *found.get("anyOf", ()), *found.get("oneOf", ())]
    listed = [word for branch in branches for word in branch.get("enum", ())]
    alone = [branch["const"] for branch in branches if "const" in branch]
    yes_or_no = ["true", "false"] if any(branch.get("type") == "boolean" for branch in branches) else []
    return [*map(str, [*listed, *alone]), *yes_or_no]


def _resolved(found: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A part of a schema, itself in place of a reference to it."""
    for branch in (found, *found.get("allOf", ()), *found.get("anyOf", ()), *found.get("oneOf", ())):
        if "$ref" in branch:
            resolved: dict[str, Any] = schema["$defs"][branch["$ref"].rpartition("/")[2]]
            return resolved
    return found


def _folders(incomplete: str, marks: tuple[str, ...]) -> list[str]:
    found = {path.parent for mark in marks for path in _below(incomplete, mark)}
    inner = ("model", "source_model", "checkpoints")
    return _offered((path for path in found if path.name not in inner), incomplete)


def _below(incomplete: str, name: str) -> Iterable[Path]:
    """Files of a name in the folder that is typed, and some way below it; hidden folders left out."""
    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    for depth in range(DEPTH + 1):
        for path in folder.glob("*/" * depth + name):
            if not any(part.startswith(".") and part not in (".", "..") for part in path.parts):
                yield path


def _offered(paths: Iterable[Path], incomplete: str) -> list[str]:
    prefix = "./" if incomplete.startswith("./") else ""
    names = sorted({f"{prefix}{path}" for path in paths})
    return [name for name in names if name.startswith(incomplete) and name != "."][:MOST]
