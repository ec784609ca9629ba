"""Would more rows help? The same recipe on shares of its training rows, and the score that their curve foretells.

Every share takes as many optimizer steps as the whole, is measured as often and on the same validation rows. With as
many epochs instead, an eighth of the rows would be trained for an eighth of the steps: its score would say what a short
training costs, not what few rows cost, and the curve would promise rows the gain of steps. The best weights are chosen
among as many candidates for the same reason.

Shares are nested and hold of each label as large a part (`dataset.nested_share`), so that two points differ by rows
that were added. Where a training is short, shares below the whole are trained on several draws of rows: what points of
one size differ by tells how far a point is off by chance. As steps are equal a draw costs as much as the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keeltune.advisor import extrapolation
from keeltune.advisor.extrapolation import FEWEST, Trained
from keeltune.recipe.fields import Recipe
from keeltune.reports import learning_curve_page
from keeltune.runs import claim, run
from keeltune.training.early_stopping import evaluation_schedule
from keeltune.training.preparation import prepare
from keeltune.training.preparation.material import Material
from keeltune.utils.errors import Problem, UserError, without_resume_option
from keeltune.utils.files import write_json, write_text
from keeltune.utils.progress import Display

SHARES = (0.125, 0.25, 0.5, 1.0)

SHORT, DRAWS = 500, 2
"""Trainings of so many steps or fewer have so many draws of each share below the whole; longer ones have one."""


def curve(
    recipe: Recipe, shares: Sequence[float] = SHARES, draws: int | None = None, display: Display | None = None
) -> dict[str, Any]:
    """Trains the recipe on each share, into `OUTPUT/share-0.5/` and so on (what is finished is not trained again).

    `draws`: trainings of each share below the whole, each on other rows; None: two where they are short. Returns what
    `extrapolation.extrapolate` does, also written to `OUTPUT/curve.json`, with a picture in `curve.html`.
    Raises: UserError: fewer than four shares, or of numbers of rows, no labelled rows, or neither test nor validation
        rows; StateRefused: the runs in `OUTPUT` are of another recipe.
    """
    card = extrapolation.extrapolate(train_shares(recipe, shares, draws, display))
    folder = recipe.path(recipe.output)
    write_json(folder / "curve.json", card)
    write_text(folder / "curve.html", learning_curve_page.page(card, recipe.report.language))
    return card


def train_shares(
    recipe: Recipe, shares: Sequence[float] = SHARES, draws: int | None = None, display: Display | None = None
) -> list[Trained]:
    """The runs that `curve` extrapolates from, the smallest share first."""
    display = display or Display()
    shares = sorted(set(shares))
    _check(recipe, shares)
    folder = recipe.path(recipe.output)
    with claim.owned(folder, display):
        return _trained(recipe, shares, draws, folder, display)


def _trained(
    recipe: Recipe, shares: Sequence[float], draws: int | None, folder: Path, display: Display
) -> list[Trained]:
    """The runs of the shares, which are trained, or go on."""
    whole = prepare.prepare(recipe)
    draws = draws or (DRAWS if whole.steps <= SHORT else 1)
    parts = [(share, draw) for share in shares for draw in range(draws if share < 1 else 1)]
    recipes = [_part(recipe, whole, folder, share, draw) for share, draw in parts]
    # every share's faults come out before the first training
    rows = {share: len(prepare.prepare(part).rows["train"]) for (share, _), part in zip(parts, recipes, strict=True)}
    if len(set(rows.values())) < FEWEST:
        found = ", ".join(f"{share:g}: {n} rows" for share, n in rows.items())
        expected = f"{FEWEST} different numbers of rows or more: a curve has three unknowns"
        raise UserError(Problem("the call", "--share", found, expected, "name shares that lie further apart"))
    display.say(f"{len(parts)} trainings of {whole.steps} steps each")
    runs = []
    for (share, draw), part in zip(parts, recipes, strict=True):
        display.say(f"share {share:g}" + (f", draw {draw + 1}" if draw else ""))
        output = part.path(part.output)
        with without_resume_option(output):
            runs.append(Trained(share, draw, run.train(part, resume=output.is_dir(), display=display)))
    return runs


def _part(recipe: Recipe, whole: Material, folder: Path, share: float, draw: int) -> Recipe:
    """The recipe on a share of its rows: as many steps as the whole takes, and as many looks at the validation rows."""
    data = {"share": recipe.data.share * share, "share_seed": recipe.data.share_seed + draw}
    updates: dict[str, Any] = {
        "data": recipe.data.model_copy(update=data),
        "training": recipe.training.model_copy(update={"max_steps": whole.steps, "epochs": None}),
        "output": str(folder / (f"share-{share:g}" + (f"-draw-{draw + 1}" if draw else ""))),
    }
    if whole.rows["validation"]:
        every = evaluation_schedule(whole).every or whole.steps_per_epoch
        updates["evaluation"] = recipe.evaluation.model_copy(update={"every": every})
    return recipe.model_copy(update=updates)


def _check(recipe: Recipe, shares: Sequence[float]) -> None:
    """UserError with every fault of the call that shows before any row is read."""
    problems = []
    if len(shares) < FEWEST or not all(0 < share <= 1 for share in shares):
        found = ", ".join(f"{share:g}" for share in shares)
        expected = f"{FEWEST} shares or more, above 0 and up to 1: a curve has three unknowns"
        problems.append(Problem("the call", "--share", found, expected, "add some"))
    if recipe.data.train is None:
        expected = "labelled rows to take shares of"
        problems.append(recipe.problem("data.train", expected=expected, fix="add data.train"))
    if recipe.data.test is None and recipe.data.named_validation is None:
        found, expected = "neither test nor validation", "rows to score on"
        problems.append(recipe.problem("data", found=found, expected=expected, fix="add data.test"))
    if problems:
        raise UserError(problems)
