"""The rows of a finished run, read again: a page shows texts, and a run folder holds none.

A row is looked up by where it was and known by its key, the SHA-256 of its columns. So what a page shows is what was
scored, or nothing: files that are not those of the run, by their digests, are not read at all.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keeltune.data import reading
from keeltune.data.dataset import Row
from keeltune.data.sources import DataSource
from keeltune.data.stored_rows import StoredRows, stored
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task
from keeltune.training.preparation.row_encoding import field_of
from keeltune.training.preparation.splits import sources_of, task_columns
from keeltune.utils import manifest, registry
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.manifest import NotAsWrittenError
from keeltune.utils.messages import Message


@dataclass(frozen=True)
class RowsAgain:
    """The rows behind a split's predictions, or `missing`: why there are none."""

    rows: StoredRows | None = None
    missing: Message | None = None
    places: Mapping[int, list[int]] = field(default_factory=dict)

    def row(self, line: Mapping[str, Any]) -> Row | None:
        """The row of a line of a prediction file; None where it is not there."""
        if self.rows is None:
            return None
        for index in self.places.get(line["row"], ()):
            row = self.rows[index]
            if row.key == line["key"]:
                return row
        return None


class _NotThere(Exception):
    """Why rows are not read again, as its only argument."""


def known_task(name: str) -> type[Task] | None:
    """The class of a run's task; of one from outside only where it is loaded: a page imports nothing that a folder
    names, which may be somebody else's."""
    if not _is_loaded(name):
        return None
    try:
        found: type[Task] = registry.find("tasks", name)
    except LookupError:
        return None
    return found


def _is_loaded(name: str | None) -> bool:
    return ":" not in (name or "") or (name or "").split(":")[0] in sys.modules


def rows_again(
    folder: Path, recipe: Recipe | None, result: Mapping[str, Any], split: str, lines: Sequence[Mapping[str, Any]]
) -> RowsAgain:
    """The rows of `lines`, a split's predictions (`validation`, `test`, `source`, `source_validation`).

    `recipe`: the run's, None where it cannot be read. Text stays in its files until a row is asked for; what cannot be
    read from the middle of a file is held.
    """
    try:
        rows = _read(folder, recipe, result, split)
    except _NotThere as reason:
        return RowsAgain(missing=reason.args[0])
    except (UserError, OSError, NotAsWrittenError, ValueError, TypeError, LookupError, ImportError) as error:
        said = error.problems[0].found if isinstance(error, UserError) else str(error)
        return RowsAgain(missing=Message("they cannot be read again ({why})", why=said[:300]))
    numbers = [line["row"] for line in lines if isinstance(line.get("row"), int)]
    places = dict[int, list[int]]()
    for index in np.flatnonzero(np.isin(rows.kept["number"], numbers)):
        places.setdefault(int(rows.kept["number"][index]), []).append(int(index))
    return RowsAgain(rows, None, places)


def _read(folder: Path, recipe: Recipe | None, result: Mapping[str, Any], split: str) -> StoredRows:
    if recipe is None:
        raise _NotThere(Message("the run's recipe is of another version of keeltune"))
    if not recipe.report.texts:
        raise _NotThere(Message("the recipe leaves them out (report.texts: false)"))
    task = known_task(recipe.task)
    if task is None or not _is_loaded(recipe.data.format):
        raise _NotThere(Message("the task or its data format is not a part of keeltune"))
    sources, read_from = sources_of(recipe), split
    if sources.get(split) is None and split == "validation":  # a share of the training rows
        read_from = "train"
    source = sources.get(read_from)
    if source is None or source.name.startswith("hub:"):
        raise _NotThere(Message("they are in no file of this machine"))
    _check_files(folder, source, (result.get("digests") or {}).get("inputs", {}).get(field_of(read_from), []))
    columns, problems = task_columns(task, recipe.data.multi_label), list[Problem]()
    batches = reading.read_batches(source, columns, recipe.data.columns, problems)
    return stored(batches, [column.name for column in columns if not column.label], has_label=False)


def _check_files(folder: Path, source: DataSource, told: list[Mapping[str, Any]]) -> None:
    """`_NotThere` where the source's files are not those that the run read."""
    files = {path.resolve() for path in source.files()}
    entries = {(folder / Path(entry["file"]).expanduser()).resolve(): entry for entry in told if "file" in entry}
    if not files:
        raise _NotThere(Message("their files are not there any more"))
    if files != set(entries):
        raise _NotThere(Message("the run does not say what its files were"))
    for path, entry in entries.items():
        try:
            manifest.check(path, entry)
        except NotAsWrittenError as error:
            raise _NotThere(Message("{file} is not the file that the run read", file=path.name)) from error
