"""Rows in memory as files: what a recipe in Python hands over in place of a path is kept beside the run.

    kt.train({"data": {"train": frame, …}, …})

A run is its recipe and its files: it can be gone on with, looked at and repeated. Rows in memory are therefore written,
once, under the digest of their content, and the recipe names that file. The same rows give the same file, so that
`resume` finds what it was trained on; other rows are other data, which a resume refuses as ever.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from keeltune.data import memory
from keeltune.recipe.fields import Recipe
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.files import write_atomically

FOLDER = Path(".cache") / "rows"

PLACES = ("train", "validation", "test", "unlabeled")
"""Where a recipe's `data` names rows; below `source` too."""


def with_files(recipe: Recipe | str | Path | Mapping[str, Any]) -> Any:
    """The recipe with a path in the place of each set of rows in memory, which is written below the working folder,
    where a mapping's paths start; anything but a mapping as it is. UserError for rows that are none."""
    if not isinstance(recipe, Mapping) or not isinstance(recipe.get("data"), Mapping):
        return recipe
    folder = Path.cwd()
    data = _kept(recipe["data"], folder, "data")
    if isinstance(data.get("source"), Mapping):
        data["source"] = _kept(data["source"], folder, "data.source")
    return {**recipe, "data": data}


def _kept(given: Mapping[str, Any], folder: Path, field: str) -> dict[str, Any]:
    return {
        name: _file_of(value, folder, place) if name in PLACES and _in_memory(value, place) else value
        for name, value, place in ((name, value, f"{field}.{name}") for name, value in given.items())
    }


def _in_memory(value: Any, field: str) -> bool:
    """Whether rows are handed over; a number is a share, and a list below `data.source.test` may name files."""
    if isinstance(value, (int, float)) or not memory.is_rows(value):
        return False
    named = field == "data.source.test" and isinstance(value, list)
    return not (named and all(isinstance(one, Mapping) and {"name", "data"} <= set(one) for one in value))


def _file_of(rows: Any, folder: Path, field: str) -> str:
    """The file that holds these rows now, as the recipe names it."""
    lines = b"".join(_lines(rows, field))
    path = FOLDER / f"{hashlib.sha256(lines).hexdigest()}.jsonl"
    if not (folder / path).is_file():
        (folder / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(folder / path, lines)
    return os.fspath(path)


def _lines(rows: Any, field: str) -> Iterator[bytes]:
    for number, row in enumerate(memory.records_of(rows, "recipe", field), 1):
        try:
            yield orjson.dumps(row, default=_as_json) + b"\n"
        except TypeError as error:
            found = f"row {number}: {error}"
            fix = "give texts, numbers, lists, mappings; save a data set of pictures or sound, and name its folder"
            raise UserError(Problem("recipe", field, found, "values that JSON can hold", fix)) from None


def _as_json(value: Any) -> Any:
    """Numbers and arrays of numpy, times."""
    made = memory.plain(value)
    if made is value:
        raise TypeError(f"a {type(value).__name__}")
    return made
