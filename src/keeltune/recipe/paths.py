"""Which values of a recipe are paths, and how a path is written where others may read it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keeltune.recipe.data_fields import AUTO, Source

Change = Callable[[str, str], str]
"""From a dotted field and the path in it to what stands there instead."""


def change_paths(values: dict[str, Any], is_local: Callable[[str], bool], change: Change) -> None:
    """Changes each path of a recipe's values in place; `is_local` tells a model's folder from a hub id."""
    data = values.get("data") or {}
    for section, rows in (("data", data), ("data.source", data.get("source") or {})):
        for name in Source.model_fields:
            is_auto = section == "data" and name == "validation" and rows.get(name) == AUTO
            if isinstance(rows.get(name), str) and not rows[name].startswith("hub:") and not is_auto:
                rows[name] = change(f"{section}.{name}", rows[name])
    tests = (data.get("source") or {}).get("test")
    for i, test in enumerate(tests if isinstance(tests, list) else []):
        if isinstance(test, dict) and isinstance(test.get("data"), str) and not test["data"].startswith("hub:"):
            test["data"] = change(f"data.source.test.{i}.data", test["data"])
    harness = (data.get("source") or {}).get("lm_eval")
    if isinstance(harness, dict) and isinstance(harness.get("include_path"), str):
        harness["include_path"] = change("data.source.lm_eval.include_path", harness["include_path"])
    for name in values.keys() & {"model", "reference"}:
        values[name] = _changed_model(values[name], name, lambda field, v: change(field, v) if is_local(v) else v)
    for section, name in (("reference", "cache"), ("evaluation", "terms")):
        fields = values.get(section)
        if isinstance(fields, dict) and isinstance(fields.get(name), str):
            fields[name] = change(f"{section}.{name}", fields[name])
    if "output" in values:
        values["output"] = change("output", values["output"])


def _changed_model(value: Any, field: str, change: Change) -> Any:
    """A model's path changed, and those of the parts of a new one."""
    if isinstance(value, list):
        return [_changed_model(v, field, change) for v in value]
    if isinstance(value, dict):
        names = ("from",) if "layers" in value else ("model", "new", "tokenizer", "encoder", "decoder")
        return value | {name: _changed_model(value[name], field, change) for name in names if name in value}
    return change(field, value) if isinstance(value, str) else value


def absolute(path: Path) -> Path:
    """The path from the root, without `..`; links on the way to it are followed, it is not one itself followed."""
    return Path(os.path.realpath(path.parent)) / path.name if path.name not in ("", "..") else path.resolve()


def shared(path: Path, folder: Path) -> str:
    """A path as a file in `folder` names it: relative, so that it says nothing of whose machine it is; where they have
    only the root in common, from `~` or from the root. A recipe in `folder` finds it there again."""
    path, folder = absolute(path), folder.resolve()
    if len(Path(os.path.commonpath([path, folder])).parts) > 1:
        return os.path.relpath(path, folder)
    home = Path(os.path.realpath(os.path.expanduser("~")))
    return f"~/{path.relative_to(home)}" if len(home.parts) > 1 and path.is_relative_to(home) else str(path)
