"""`keeltune advise`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from keeltune.cli.app import Overrides, RecipeFile
from keeltune.recipe import load
from keeltune.utils.collection import paused_collection
from keeltune.utils.terminal import Terminal


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
    loaded = load(recipe, overrides or [])
    with paused_collection():  # seconds of imports, after what may refuse the call
        from keeltune.advisor import race
        from keeltune.reports import advice_page

    card = race.advise(
        loaded, budget=budget, teacher=_from_here(teacher), pool=_from_here(pool),
        source_texts=_from_here(source_texts), source_weight=source_weight, max_source_drop=max_source_drop,
    )  # fmt: skip
    if as_json:
        print(json.dumps(card, allow_nan=False))
        return
    console = Terminal()
    console.print(advice_page.table(card))
    for name, why in card["ruled_out"].items():
        console.print(f"ruled out: {name}: {why}")
    console.print(f"{card['recommended']}: {card['reason']}")
    for line in card["turning_points"]:
        console.print(line)
    console.print(f"run it:  keeltune train {card['recipe']}")
    console.print(f"page:    {loaded.path(loaded.output) / 'advice.html'}")


def _from_here(value: str | None) -> str | None:
    """What the command line names: a path from the working folder where there is one, else as the recipe has it."""
    return str(Path(value).absolute()) if value is not None and Path(value).exists() else value
