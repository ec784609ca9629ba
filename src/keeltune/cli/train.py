"""`keeltune train`."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from keeltune.cli.app import Overrides, RecipeFile
from keeltune.models import libraries
from keeltune.recipe import load
from keeltune.recipe.paths import absolute
from keeltune.reports.findings import overfitting
from keeltune.runs import on_ray, run
from keeltune.utils.distributed import is_main_process
from keeltune.utils.errors import Problem, UserError, shown
from keeltune.utils.files import without_dots
from keeltune.utils.terminal import Terminal


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in `output`.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove an earlier run from `output` first.")] = False,
    allow_change: Annotated[
        list[str] | None,
        typer.Option("--allow-change", help="With --resume: a field that may differ, such as training.learning_rate."),
    ] = None,
    on: Annotated[str | None, typer.Option("--on", help="Who starts the processes that train: ray.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="With --on: how many; one a GPU.")] = None,
) -> None:
    """Train, evaluate, and write the run folder with its report."""
    _refuse_engine(on, workers)
    loaded = load(recipe, overrides or [], early=partial(run.refuse_at_once, overwrite=overwrite))
    if on is None:
        finished = run.train(loaded, resume=resume, overwrite=overwrite, allow_change=allow_change or ())
    else:
        given = on_ray.Call(str(absolute(recipe)), overrides or [], allow_change or [])
        finished = on_ray.train(loaded, given, workers, resume=resume, overwrite=overwrite)
    if is_main_process():
        console = Terminal()
        console.print(_table(finished.result))
        for line in overfitting.verdict_lines(finished.result):
            console.print(line)
        folder, model = without_dots(finished.folder), without_dots(finished.model)
        console.print(f"report: {folder / 'report.html'}")
        console.print(f"model:  {model}")
        console.print(f"try it: keeltune predict {shlex.quote(_near(folder))} {_given(loaded.task)}")


def _refuse_engine(on: str | None, workers: int | None) -> None:
    """UserError for an engine that there is not, or that is not installed, and for workers of none."""
    if on is None and workers is not None:
        found, expected = f"{workers}, without --on", "the engine that starts them"
        raise UserError(Problem("the call", "--workers", found, expected, "add --on ray, or start them with torchrun"))
    if on is not None and on != "ray":
        fix = "name it, or start the processes with torchrun, srun or accelerate launch"
        raise UserError(Problem("the call", "--on", shown(on), "ray", fix))
    if on is not None and not libraries.installed("ray"):
        expected = "the engine that starts the workers"
        raise UserError(Problem("the call", "--on", "ray, which is not installed", expected, libraries.install("ray")))


def _near(folder: Path) -> str:
    """A folder as it is typed from here: below here by its way from here."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _given(name: str) -> str:
    """How a row of a task is given to `predict`: a text alone where that is a row, texts as JSON, or a file of rows."""
    from keeltune.training.preparation.reading import find_task  # imports torch, which a call that is refused needs not

    task = find_task(name, "the recipe", "task")
    needed = [column for column in task.columns if column.required and not column.label]
    if [column.kind for column in needed] in ([], ["text"], ["sentence"]):
        return '--text "…"'
    if all(column.kind == "text" for column in needed):
        return "--text '{" + ", ".join(f'"{column.name}": "…"' for column in needed) + "}'"
    return "--input FILE"


def _table(result: dict[str, Any]) -> Table:
    """Each split's scores before and after, with the interval."""
    table = Table("split", "metric", "before", "after", "95 % interval")
    metrics, intervals = result["metrics"], result["intervals"]
    for split in ("validation", "test", "source"):
        both = split == "source"
        after = metrics[split]["after"] if both else metrics[split]
        before = (metrics[split]["before"] if both else metrics["before"][split]) or {}
        ranges = (intervals[split]["after"] if both else intervals[split]) or {}
        for name, value in (after or {}).items():
            if isinstance(value, float):
                low, high = ranges[name]
                earlier = f"{before[name]:.4f}" if name in before else "–"
                table.add_row(split, name, earlier, f"{value:.4f}", f"{low:.4f} to {high:.4f}")
    return table
