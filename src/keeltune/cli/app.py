"""The command. Each verb reads its arguments, calls the library, and prints; nothing is decided here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from keeltune.utils.errors import KeeltuneError, Problem, UserError
from keeltune.utils.version import __version__

app = typer.Typer(
    name="keeltune",
    help="Fine-tune pretrained models on an even keel: L = CE + weight · D(student ‖ reference).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]

Overrides = Annotated[list[str] | None, typer.Argument(help="Changes to the recipe: a.b=c …", show_default=False)]

ModelOrRun = Annotated[str, typer.Argument(help="A run folder, a model folder or a hub id.", show_default=False)]

TaskName = Annotated[str | None, typer.Option("--task", help="The task; a bare model folder needs it.")]

ColumnNames = Annotated[list[str] | None, typer.Option("--column", help="ours=theirs: the file's name of a column.")]


@app.command()
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in `output`.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove an earlier run from `output` first.")] = False,
) -> None:
    """Train, evaluate, and write the run folder with its report."""
    from keeltune.recipe import load
    from keeltune.runs import run
    from keeltune.utils import distributed

    loaded = load(recipe, overrides or [])
    finished = run.train(loaded, resume=resume, overwrite=overwrite)
    if distributed.is_main_process():
        _print_result(finished.folder, finished.result, finished.model)


@app.command()
def check(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Every problem of the recipe and its data, all at once, before any training; then what it will cost."""
    from keeltune.cli import check
    from keeltune.recipe import load

    check.check(load(recipe, overrides or []), Console(highlight=False))


@app.command()
def show(
    recipe: RecipeFile,
    overrides: Overrides = None,
    row: Annotated[int, typer.Option("--row", min=1, help="Which training row, from 1.")] = 1,
) -> None:
    """One real row's journey: fields, tensors with shapes, loss terms."""
    from keeltune.cli import show
    from keeltune.recipe import load

    show.show(load(recipe, overrides or []), row, Console(highlight=False))


@app.command()
def cache(
    recipe: RecipeFile,
    overrides: Overrides = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compute nothing; check what is there.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Take away what is there first.")] = False,
) -> None:
    """Compute the reference's distributions ahead of training, once for all epochs and runs."""
    from keeltune.cli import cache
    from keeltune.recipe import load
    from keeltune.utils import distributed

    facts = cache.precompute(load(recipe, overrides or []), verify=verify, overwrite=overwrite)
    if distributed.is_main_process():
        cache.show(facts, Console(highlight=False))


@app.command()
def evaluate(
    model: ModelOrRun,
    data: Annotated[str, typer.Option("--data", help="Labelled rows: a file, a folder or hub:NAME.")],
    task: TaskName = None,
    column: ColumnNames = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only the result, as JSON, on stdout.")] = False,
) -> None:
    """Score a model on labelled rows, with 95 % intervals."""
    from keeltune.runs import inference

    result = inference.evaluate(model, data, task=task, columns=_columns(column))
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    table = Table("metric", "value", "95 % interval", title=f"{result['rows']} rows")
    for name, value in result["metrics"].items():
        low, high = result["intervals"][name]
        table.add_row(name, f"{value:.4f}", f"{low:.4f} to {high:.4f}")
    Console().print(table)


@app.command()
def predict(
    model: ModelOrRun,
    input_file: Annotated[str, typer.Option("--input", help="Rows to predict: a file, a folder or hub:NAME.")],
    output_file: Annotated[Path, typer.Option("--output", help="A .jsonl, .csv or .tsv file.")],
    task: TaskName = None,
    column: ColumnNames = None,
    calibrated: Annotated[bool, typer.Option(help="Probabilities at the temperature that the run fitted.")] = False,
) -> None:
    """Write each input row with its prediction and probabilities."""
    from keeltune.runs import inference

    names = _columns(column)
    table = inference.predict(model, input_file, output_file, task=task, columns=names, calibrated=calibrated)
    Console(stderr=True).print(f"{len(table)} rows written to {escape(str(output_file))}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN …", help="Run folders; the first is the baseline.")],
    output: Annotated[Path, typer.Option("--output", help="The page to write.")] = Path("compare.html"),
    language: Annotated[str | None, typer.Option(help="en or zh; without it the runs' own, if they agree.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only the comparison, as JSON, on stdout.")] = False,
) -> None:
    """Several runs of one task in one table and one picture: target against source, with paired tests."""
    from keeltune.reports import comparison_page
    from keeltune.runs import comparison as comparing
    from keeltune.utils.files import write_text

    found = comparing.compare(runs, language)
    write_text(output, comparison_page.page(found))
    if as_json:
        print(json.dumps(found, allow_nan=False))
        return
    console = Console(highlight=False)
    console.print(comparison_page.table(found))
    console.print(f"page: {escape(str(output))}", soft_wrap=True)


@app.command()
def advise(
    recipe: RecipeFile,
    overrides: Overrides = None,
    budget: Annotated[str | None, typer.Option(help="90s, 30m, 2h; without it three whole plain runs.")] = None,
    teacher: Annotated[str | None, typer.Option(help="A teacher, where the recipe names none.")] = None,
    pool: Annotated[str | None, typer.Option(help="Texts without labels, where the recipe names none.")] = None,
    source_texts: Annotated[str | None, typer.Option(help="Inputs of the old domain.")] = None,
    source_weight: Annotated[float | None, typer.Option(min=0, max=1, help="What the old domain counts.")] = None,
    max_source_drop: Annotated[float | None, typer.Option(help="How far the old domain's score may fall.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only the card, as JSON, on stdout.")] = False,
) -> None:
    """Which method fits this data: pilots of all that it allows, a verdict, and the recipe to run."""
    from keeltune.advisor import race
    from keeltune.recipe import load
    from keeltune.reports import advice_page

    loaded = load(recipe, overrides or [])
    card = race.advise(
        loaded, budget=budget, teacher=_from_here(teacher), pool=_from_here(pool),
        source_texts=_from_here(source_texts), source_weight=source_weight, max_source_drop=max_source_drop,
    )  # fmt: skip
    if as_json:
        print(json.dumps(card, allow_nan=False))
        return
    console = Console()
    console.print(advice_page.table(card))
    for name, why in card["ruled_out"].items():
        console.print(escape(f"ruled out: {name}: {why}"))
    console.print(escape(f"{card['recommended']}: {card['reason']}"))
    for line in card["turning_points"]:
        console.print(escape(line))
    console.print(f"run it:  keeltune train {escape(card['recipe'])}", soft_wrap=True)
    console.print(f"page:    {escape(str(loaded.path(loaded.output) / 'advice.html'))}", soft_wrap=True)


@app.command()
def curve(
    recipe: RecipeFile,
    overrides: Overrides = None,
    share: Annotated[list[float] | None, typer.Option("--share", help="A share of the rows; several times.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only the result, as JSON, on stdout.")] = False,
) -> None:
    """Would more rows help? Train on shares of the rows and foretell the score of twice as many."""
    from keeltune.advisor import learning_curve as curving
    from keeltune.recipe import load

    loaded = load(recipe, overrides or [])
    card = curving.curve(loaded, share or curving.SHARES)
    if as_json:
        print(json.dumps(card, allow_nan=False))
        return
    table = Table("training rows", card["metric"], "95 % interval")
    for point in card["points"]:
        low, high = point["interval"]
        table.add_row(str(point["rows"]), f"{point['value']:.4f}", f"{low:.4f} to {high:.4f}")
    console = Console()
    console.print(table)
    console.print(card["verdict"])
    console.print(f"page: {escape(str(loaded.path(loaded.output) / 'curve.html'))}", soft_wrap=True)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Where runs lie, at any depth.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Only the list, as JSON, on stdout.")] = False,
) -> None:
    """The runs in a folder: method, score with its interval, date, identity. Any is made again by its recipe.yaml."""
    from keeltune.runs import history

    found = history.runs(folder)
    if as_json:
        print(json.dumps(found, allow_nan=False))
        return
    folded = [Column(name, overflow="fold") for name in ("run", "identity")]
    table = Table(folded[0], "method", "status", "score", "95 % interval", "seeds", "looks", "finished", folded[1])
    for one in found:
        score = f"{one['split']} {one['metric']} {one['value']:.4f}" if one["split"] else "–"
        interval = f"{one['interval'][0]:.4f} to {one['interval'][1]:.4f}" if one["interval"] else "–"
        place = str(Path(one["folder"]).relative_to(folder)) if Path(one["folder"]) != folder else folder.name
        table.add_row(escape(place), one["method"] or "–", one["status"] or "–", score, interval,
                      str(len(one["seeds"] or [0])), str(one["looks"]), one["finished"] or "–",
                      one["identity"] or "–")  # fmt: skip
    Console().print(table)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--output", help="Where data and runs go.")] = Path("keeltune-demo"),
) -> None:
    """The three methods side by side on made data, in minutes on a CPU, with no download."""
    from keeltune.cli import demo as demonstration

    demonstration.play(folder, Console(highlight=False))


@app.command()
def doctor() -> None:
    """Machine, versions, precision, and what is missing."""
    from keeltune.cli import doctor

    doctor.doctor(Console(highlight=False))


@app.command()
def schema(output: Annotated[Path | None, typer.Option("--output", help="A file; stdout without it.")] = None) -> None:
    """The recipe's JSON Schema, with which editors complete and check recipes."""
    from keeltune.recipe.fields import json_schema

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")


def _version(asked: bool) -> None:
    if asked:
        print(f"keeltune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Runs the command; every foreseen failure is one message and its exit status, never a traceback."""
    debug = "--debug" in sys.argv
    # `--debug` is welcome after the verb too
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        app(args=arguments, standalone_mode=True)
    except KeeltuneError as error:
        if debug:
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(escape(_message(error)))
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)


def _message(error: KeeltuneError) -> str:
    if not isinstance(error, UserError):
        return str(error)
    errors = [p for p in error.problems if p.severity == "error"]
    return f"{error}\n{len(errors)} problem{'s' if len(errors) != 1 else ''}; nothing was started."


def _from_here(value: str | None) -> str | None:
    """What the command line names: a path from the working folder where there is one, else as the recipe has it."""
    return str(Path(value).absolute()) if value is not None and Path(value).exists() else value


def _columns(pairs: list[str] | None) -> dict[str, str]:
    """`text=body` options as a mapping."""
    found = {}
    for pair in pairs or []:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise UserError(Problem("the call", "--column", pair, "ours=theirs, such as text=body", "write both names"))
        found[ours] = theirs
    return found


def _print_result(folder: Path, result: dict[str, Any], model: Path) -> None:
    """The result as a table: the split's scores before and after, with the interval."""
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
    console = Console()
    console.print(table)
    console.print(f"report: {escape(str(folder / 'report.html'))}", soft_wrap=True)
    console.print(f"model:  {escape(str(model))}", soft_wrap=True)
