"""Would more rows help? The same recipe on shares of its training rows, and the score that the curve foretells.

    error(n) = a + b · n^(−c),     a, b ≥ 0, 0 < c ≤ 2

fitted by least squares to the errors of the shares (Hestness et al. 2017, https://arxiv.org/abs/1712.00409; such fits
foretell the next doubling well and ten times as many rows badly). The interval holds what other test rows and other
trainings would change: rows are drawn as in every interval, each point is moved by as much as the points scatter around
the fit, the fit is made again, and the scatter comes on top of what it foretells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from keeltune import apply, evaluation, seeds
from keeltune.analysis.overfitting import scale_of
from keeltune.display import Display
from keeltune.problems import Problem, UserError, anew_without
from keeltune.recipe import Recipe
from keeltune.report import curves
from keeltune.results import read_lines, write_json, write_text
from keeltune.run import Run
from keeltune.tasks.task import Task
from keeltune.words import Said

SHARES = (0.125, 0.25, 0.5, 1.0)
FEWEST = 4
"""Points of a fit with three unknowns."""
EXPONENTS = np.geomspace(0.02, 2.0, 60)
RESAMPLES = 400


def curve(recipe: Recipe, shares: Sequence[float] = SHARES, display: Display | None = None) -> dict[str, Any]:
    """Trains the recipe on each share, into `OUTPUT/share-0.5/` and so on (what is finished is not trained again).

    {"metric", "split", "points": [{"share", "rows", "value", "interval"}], "fit": {"a", "b", "c"}, "twice": {"rows",
    "value", "interval", "gain" (more is better), "gain_interval"}, "verdict"}, also written to `OUTPUT/curve.json`,
    with a picture in `curve.html`.
    Raises: UserError: fewer than four shares, no labelled rows, or neither test nor validation rows; StateRefused: the
        runs in `OUTPUT` are of another recipe.
    """
    display = display or Display()
    shares = sorted(set(shares))
    if len(shares) < FEWEST or not all(0 < share <= 1 for share in shares):
        found = ", ".join(f"{share:g}" for share in shares)
        expected = f"{FEWEST} shares or more, above 0 and up to 1: a curve has three unknowns"
        raise UserError(Problem("the call", "--share", found, expected, "add some"))
    if recipe.data.train is None:
        expected = "labelled rows to take shares of"
        raise UserError(recipe.problem("data.train", expected=expected, mend="add data.train"))
    folder = recipe.path(recipe.output)
    runs = []
    for share in shares:
        output = folder / f"share-{share:g}"
        rows = recipe.data.model_copy(update={"share": recipe.data.share * share})
        part = recipe.model_copy(update={"data": rows, "output": str(output)})
        display.say(f"share {share:g}")
        with anew_without(output):
            runs.append(seeds.train(part, resume=output.is_dir(), display=display))
    card = foretold(runs, shares, recipe)
    write_json(folder / "curve.json", card)
    write_text(folder / "curve.html", curves.page(card, recipe.report.language))
    return card


def foretold(runs: Sequence[Run], shares: Sequence[float], recipe: Recipe) -> dict[str, Any]:
    """What finished runs on shares of the rows foretell of twice as many rows."""
    split = next((name for name in ("test", "validation") if runs[-1].result["metrics"][name]), None)
    if split is None:
        expected = "rows to score on"
        raise UserError(
            recipe.problem("data", found="neither test nor validation", expected=expected, mend="add data.test")
        )
    task = apply.open_model(runs[-1].folder, None).task
    metric, sign = task.metrics[0], task.primary_sign
    scale = scale_of(metric) or 1.0
    best = 0.0 if sign < 0 else scale
    rows = np.array([run.result["data"]["train"]["rows"] for run in runs], dtype=float)
    values = np.array([run.result["metrics"][split][metric] for run in runs])
    drawn = np.stack([_drawn(task, run, split, metric) for run in runs])
    fitted = fit(rows, sign * (best - values))
    twice = 2 * float(rows[-1])
    noise = np.random.default_rng(2).normal(scale=fitted.scatter, size=(len(rows) + 1, drawn.shape[1]))
    errors = (sign * (best - drawn) + noise[:-1]).T
    there = np.array([best - sign * fit(rows, each).at(twice) for each in errors]) + noise[-1]
    there = np.clip(there, 0.0, scale if sign > 0 else None)  # the scatter reaches beyond what a score can be
    low, high = evaluation.interval(there)
    gains = sorted(sign * end for end in evaluation.interval(there - drawn[-1]))
    value = best - sign * fitted.at(twice)
    gain = float(sign * (value - values[-1]))
    return {
        "metric": metric,
        "split": split,
        "points": [
            {"share": share, "rows": int(n), "value": float(v), "interval": list(evaluation.interval(d))}
            for share, n, v, d in zip(shares, rows, values, drawn, strict=True)
        ],
        "fit": {"a": fitted.a, "b": fitted.b, "c": fitted.c},
        "twice": {"rows": int(twice), "value": value, "interval": [low, high], "gain": gain, "gain_interval": gains},
        "verdict": verdict(metric, gain, gains[0], gains[1], int(twice), scale),
    }


def _drawn(task: Task, run: Run, split: str, metric: str) -> np.ndarray:
    """The run's score on each draw of rows (or clusters), and of seeds where it has several."""
    lines = [read_lines(part / "predictions" / f"{split}.jsonl") for part in run.parts]
    return seeds.over_seeds([seeds.draws(task, seeds.clustered(task, each), RESAMPLES)[metric] for each in lines])


@dataclass(frozen=True)
class Power:
    """a + b · n^(−c), and the standard deviation of the points around it."""

    a: float
    b: float
    c: float
    scatter: float

    def at(self, rows: float) -> float:
        return float(self.a + self.b * rows**-self.c)


def fit(rows: np.ndarray, errors: np.ndarray) -> Power:
    """The curve of least squares, a and b not negative; c by trying `EXPONENTS`."""
    best: tuple[float, Power] | None = None
    for exponent in EXPONENTS:
        columns = np.stack([np.ones_like(rows), (rows / rows[0]) ** -exponent], axis=1)
        (a, b), off = nnls(columns, errors)
        if best is None or off < best[0] - 1e-12:
            scatter = float(off / np.sqrt(max(1, len(rows) - 3)))
            best = off, Power(float(a), float(b * rows[0] ** exponent), float(exponent), scatter)
    assert best is not None
    return best[1]


def verdict(metric: str, gain: float, low: float, high: float, rows: int, scale: float) -> Said:
    """In words; a gain below a hundredth of the scale is called small. More is better, also of an error rate."""
    template = "{rows} rows, twice as many, would better {metric} by {gain:+.3g} ({low:+.3g} to {high:+.3g})"
    said = Said(template, rows=rows, metric=metric, gain=gain, low=low, high=high)
    if low > 0 and gain > 0.01 * scale:
        return Said("more rows would help: {said}", said=said)
    if low > 0:
        return Said("more rows would help a little: {said}", said=said)
    if high > 0.01 * scale:
        return Said("whether more rows would help is not clear: {said}", said=said)
    return Said("more rows would not help: {said}", said=said)
