"""`keeltune init`: from a file of rows to a recipe."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from keeltune.cli import first_recipe
from keeltune.cli.app import ColumnNames, column_names
from keeltune.cli.schema import schema
from keeltune.data import recognition
from keeltune.data.recognition import Recognised, recognised
from keeltune.data.saved_datasets import SPLITS
from keeltune.data.sources import DataSource, formats_by_ending
from keeltune.recipe import load
from keeltune.recipe.task_names import task_named, unknown_task
from keeltune.utils import registry
from keeltune.utils.errors import Problem, UserError, brief, name_list, shown, visible
from keeltune.utils.files import write_text
from keeltune.utils.terminal import Terminal

LOOKED_AT = 1000
"""Rows that are looked at: a label repeats within a few hundred."""


def init(
    data: Annotated[str, typer.Argument(help="Rows: a file, a folder or hub:NAME.", show_default=False)],
    task: Annotated[str | None, typer.Option("--task", help="The task; left out: what the columns look like.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A model folder or hub id; left out: one that fits.")
    ] = None,
    column: ColumnNames = None,
    output: Annotated[Path, typer.Option("--output", help="The recipe to write.")] = Path("recipe.yaml"),
    yes: Annotated[bool, typer.Option("--yes", help="Take what is guessed; ask nothing.")] = False,
) -> None:
    """Look at rows, and write a first recipe for them: task, columns, splits, a model that fits."""
    console = Terminal()
    if output.exists():
        raise UserError(Problem(str(output), "--output", "a file that is there", "a new file", "name another one"))
    records = list(islice(_records(data), LOOKED_AT))
    if not records:
        raise UserError(Problem(data, "", "no rows", "rows to look at", "name a file that has some"))
    found = _chosen(data, records, task, column_names(column))
    _show(console, records, found)
    if not yes and sys.stdin.isatty():
        found = _asked(found)
    splits = _splits(data)
    text = first_recipe.text(found, splits, records, folder=output.absolute().parent, model=model)
    write_text(output, text)
    if not (beside := output.parent / first_recipe.SCHEMA).exists():
        schema(beside)
    load(output)  # what is written is a recipe
    console.print(f"{output} written; next: keeltune check {output}, then keeltune train {output}")


def _records(data: str) -> Iterator[Mapping[str, Any]]:
    """The rows as their file has them; UserError with what cannot be read of it, where that leaves none."""
    files, refused = DataSource(data, where="the call").parts()
    if refused:
        raise UserError(refused)
    any_rows = False
    for file in files:
        for batch in file.batches:
            any_rows = any_rows or bool(batch.records)
            yield from batch.records
        if file.log.problems and not any_rows:
            raise UserError(file.log.problems)


def _chosen(
    data: str, records: Sequence[Mapping[str, Any]], task: str | None, columns: Mapping[str, str]
) -> Recognised:
    """What the rows are taken for: the likeliest of all tasks, or the task that is named, with its columns."""
    every = recognised(records)
    task = None if task is None else task_named(task)
    if task is not None and task not in registry.names("tasks"):
        known = name_list(registry.names("tasks"))
        raise UserError(Problem("the call", "--task", shown(task), known, unknown_task(task)))
    fitting = [one for one in every if (one.task == task if task else one.task is not None)]
    if not fitting and task is None:
        why = "; ".join(one.why for one in every) or "no columns that any task reads"
        names = name_list(dict.fromkeys(name for record in records for name in record))
        fix = f"say what they are for: --task NAME --column ours=theirs, of {', '.join(registry.names('tasks'))}"
        raise UserError(Problem(data, "", f"{why} (columns {names})", "rows of a task that keeltune has", fix))
    best = fitting[0] if fitting else Recognised(task, "as the call says")
    if every and every[0].task is None and task is None and fitting[0] is not every[0]:
        best = Recognised(best.task, f"{best.why} ({every[0].why})", best.columns)
    return Recognised(best.task, best.why, {**best.columns, **columns})


def _show(console: Terminal, records: Sequence[Mapping[str, Any]], found: Recognised) -> None:
    console.print(f"{found.task}: {found.why}")
    table, values = Table("our column", "the file's", "its first value"), recognition.Table.of(records).values
    for ours, theirs in found.columns.items():
        table.add_row(ours, theirs, _first(values[theirs][0]) if theirs in values else "–")
    console.print(table)


def _first(value: Any) -> str:
    """A value as a file of JSON lines has it: only a text is in quotation marks."""
    if isinstance(value, str):
        return visible(value, 60)
    try:
        return brief(json.dumps(value, ensure_ascii=False), 60)
    except (TypeError, ValueError):  # what JSON has no word for: dates and bytes of Parquet
        return brief(str(value), 60)


def _asked(found: Recognised) -> Recognised:
    """The guess as the user has it."""
    known = list(registry.names("tasks"))
    task = ""
    while task not in known:
        task = task_named(typer.prompt("task", default=found.task))
    columns = found.columns if task == found.task else {}
    wanted = [c.name for c in registry.find("tasks", task).columns if c.required]
    asked = {n: typer.prompt(f"column {n}", default=columns.get(n, n)) for n in wanted}
    return Recognised(task, found.why, {**columns, **asked})


def _splits(data: str) -> dict[str, str]:
    """`train`, and `validation` and `test` where files or a folder of those names are there."""
    path = Path(data)
    if data.startswith("hub:"):
        return {"train": data}
    beside = path if path.is_dir() else path.parent
    by_name = sorted(beside.iterdir(), key=lambda other: (-len(other.name), other.name))  # test before test_of_2017
    there = {split: other for other in by_name if (split := _split_of(other)) is not None}
    if "train" not in there or (path.is_file() and _split_of(path) is None):
        return {"train": data}
    named = data if path.is_dir() else None  # a folder gives the wanted split by itself
    return {split: named or os.fspath(there[split]) for split in ("train", "validation", "test") if split in there}


def _split_of(path: Path) -> str | None:
    """The split that a file's or a folder's name says, of those whose data can be read."""
    readable = path.is_dir() or path.name.lower().removesuffix(".gz").endswith(tuple(formats_by_ending()))
    return SPLITS.get(re.split(r"[._-]", path.name.lower())[0]) if readable else None
