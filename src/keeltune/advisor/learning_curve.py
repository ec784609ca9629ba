"""Would more rows help? The same recipe on shares of its training rows, and the score that the curve predicts.

    error(n) = a + b · n^(−c),     a, b ≥ 0, 0 < c ≤ 2

fitted by least squares to the errors of the shares (Hestness et al. 2017, https://arxiv.org/abs/1712.00409; such fits
predict the next doubling well and ten times as many rows badly). The interval holds what other test rows and other
trainings would change: rows are drawn as in every interval, each point is moved by as much as the points scatter around
the fit, the fit is made again, and the scatter comes on top of what it predicts.

Nothing is predicted from points that hold no curve: fewer than four numbers of rows, or one score within the points'
intervals that is no better than to answer always the same.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from keeltune.evaluation import bootstrap, scores, seed_bootstrap
from keeltune.recipe.fields import Recipe
from keeltune.reports import learning_curve_page
from keeltune.runs import claim, opened_model, run
from keeltune.runs.run_folder import Run
from keeltune.tasks.metrics import scale_of
from keeltune.tasks.task import Task
from keeltune.training.preparation import prepare
from keeltune.utils.errors import Problem, UserError, without_resume_option
from keeltune.utils.files import write_json, write_text
from keeltune.utils.json_lines import read_lines
from keeltune.utils.messages import Message
from keeltune.utils.progress import Display

SHARES = (0.125, 0.25, 0.5, 1.0)

FEWEST = 4
"""Points of a fit with three unknowns."""

ROUNDING = 1e-9
"""As a share of the scale: what is below it is 0."""

CONSTANTS = 5
"""How many of the commonest answers are tried as the one that is always given."""

EXPONENTS = np.geomspace(0.02, 2.0, 60)

RESAMPLES = 400


def curve(recipe: Recipe, shares: Sequence[float] = SHARES, display: Display | None = None) -> dict[str, Any]:
    """Trains the recipe on each share, into `OUTPUT/share-0.5/` and so on (what is finished is not trained again).

    {"metric", "split", "points": [{"share", "rows", "value", "interval"}], "fit": {"a", "b", "c"}, "twice": {"rows",
    "value", "interval", "gain" (more is better), "gain_interval"}, "verdict"}, also written to `OUTPUT/curve.json`,
    with a picture in `curve.html`. Where nothing can be predicted "fit" and "twice" are null, and the verdict says why.
    Raises: UserError: fewer than four shares, or of numbers of rows, no labelled rows, or neither test nor validation
        rows; StateRefused: the runs in `OUTPUT` are of another recipe.
    """
    display = display or Display()
    shares = sorted(set(shares))
    _check(recipe, shares)
    folder = recipe.path(recipe.output)
    with claim.owned(folder, display):
        return _trained(recipe, shares, folder, display)


def _trained(recipe: Recipe, shares: Sequence[float], folder: Path, display: Display) -> dict[str, Any]:
    """The card of the shares that are trained, or go on."""
    outputs = [folder / f"share-{share:g}" for share in shares]
    parts = [
        recipe.model_copy(update={
            "data": recipe.data.model_copy(update={"share": recipe.data.share * share}), "output": str(output)
        })
        for share, output in zip(shares, outputs, strict=True)
    ]  # fmt: skip
    # every share's faults come out before the first training
    rows = [len(prepare.prepare(part).rows["train"]) for part in parts]
    if len(set(rows)) < FEWEST:
        found = ", ".join(f"{share:g}: {n} rows" for share, n in zip(shares, rows, strict=True))
        expected = f"{FEWEST} different numbers of rows or more: a curve has three unknowns"
        raise UserError(Problem("the call", "--share", found, expected, "name shares that lie further apart"))
    runs = []
    for share, part, output in zip(shares, parts, outputs, strict=True):
        display.say(f"share {share:g}")
        with without_resume_option(output):
            runs.append(run.train(part, resume=output.is_dir(), display=display))
    card = extrapolate(runs, shares)
    write_json(folder / "curve.json", card)
    write_text(folder / "curve.html", learning_curve_page.page(card, recipe.report.language))
    return card


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
    if recipe.data.test is None and recipe.data.validation is None:
        found, expected = "neither test nor validation", "rows to score on"
        problems.append(recipe.problem("data", found=found, expected=expected, fix="add data.test"))
    if problems:
        raise UserError(problems)


def extrapolate(runs: Sequence[Run], shares: Sequence[float]) -> dict[str, Any]:
    """What finished runs on shares of the rows predict for twice as many rows."""
    split = next(name for name in ("test", "validation") if runs[-1].result["metrics"][name])
    task = opened_model.open_model(runs[-1].folder, None, outside=True).task
    metric, sign = task.metrics[0], task.primary_sign
    scale = scale_of(metric) or 1.0
    best = 0.0 if sign < 0 else scale
    rows = np.array([trained.result["data"]["train"]["rows"] for trained in runs], dtype=float)
    values = np.array([trained.result["metrics"][split][metric] for trained in runs])
    resampled = np.stack([_resampled(task, trained, split, metric) for trained in runs])
    card: dict[str, Any] = {
        "metric": metric,
        "split": split,
        "points": [
            {"share": share, "rows": int(n), "value": float(value), "interval": list(bootstrap.interval(draws))}
            for share, n, value, draws in zip(shares, rows, values, resampled, strict=True)
        ],
    }
    errors = [[sign * (best - end) for end in point["interval"]] for point in card["points"]]
    if why := no_forecast(rows, errors, partial(constant, task, runs, split, metric)):
        return card | {"fit": None, "twice": None, "verdict": Message("nothing can be predicted: {why}", why=why)}
    fitted = fit(rows, sign * (best - values))
    twice = 2 * float(rows[-1])
    noise = np.random.default_rng(2).normal(scale=fitted.scatter, size=(len(rows) + 1, resampled.shape[1]))
    scattered = (sign * (best - resampled) + noise[:-1]).T
    predicted = (
        np.array([best - sign * fit(rows, errors_of_draw).at(twice) for errors_of_draw in scattered]) + noise[-1]
    )
    predicted = np.clip(predicted, 0.0, scale if sign > 0 else None)  # the scatter reaches beyond what a score can be

    def clean(number: float) -> float:
        return 0.0 if abs(number) < ROUNDING * scale else float(number)

    low, high = map(clean, bootstrap.interval(predicted))
    gains = sorted(clean(sign * end) for end in bootstrap.interval(predicted - resampled[-1]))
    value = clean(best - sign * fitted.at(twice))
    gain = clean(sign * (value - values[-1]))
    return card | {
        "fit": {"a": clean(fitted.a), "b": clean(fitted.b), "c": fitted.c},
        "twice": {"rows": int(twice), "value": value, "interval": [low, high], "gain": gain, "gain_interval": gains},
        "verdict": verdict(metric, gain, gains[0], gains[1], int(twice), scale),
    }


def _resampled(task: Task, trained: Run, split: str, metric: str) -> np.ndarray:
    """The run's score on each draw of rows (or clusters), and of seeds where it has several."""
    lines = [read_lines(part / "predictions" / f"{split}.jsonl") for part in trained.parts]
    return seed_bootstrap.over_seeds(
        [
            seed_bootstrap.draws(task, seed_bootstrap.clustered(task, seed_lines), RESAMPLES)[metric]
            for seed_lines in lines
        ]
    )


def no_forecast(rows: np.ndarray, errors: Sequence[Sequence[float]], trivial: Callable[[], float]) -> Message | None:
    """Why points hold no curve, None if they do: of the ends of their errors' intervals, and the trivial error."""
    different = len(np.unique(rows))
    if different < FEWEST:
        template = "the runs have {different} different numbers of rows, and a curve has three unknowns"
        return Message(template, different=different)
    lows, highs = [min(ends) for ends in errors], [max(ends) for ends in errors]
    if max(lows) <= min(highs) + ROUNDING and min(highs) >= trivial() - ROUNDING:
        return Message("all shares score the same within their intervals, and no better than one answer to every row")
    return None


def constant(task: Task, runs: Sequence[Run], split: str, metric: str) -> float:
    """The error of the best of those who give one answer to every row: no text at all, or a common answer of the runs.
    A loss has none."""
    scale = scale_of(metric)
    if scale is None:
        return math.inf
    files = [part / "predictions" / f"{split}.jsonl" for trained in runs for part in trained.parts]
    answers = Counter(json.dumps(line["prediction"]) for file in files for line in read_lines(file))
    rows, errors = read_lines(files[-1]), [scale]
    for answer, _ in answers.most_common(CONSTANTS):
        table = scores.table_of(task, [{**row, "prediction": json.loads(answer)} for row in rows])
        score = scores.scores_of(task, table, intervals=False).metrics[metric]
        errors.append(score if task.primary_sign < 0 else scale - score)
    return min(errors)


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


def verdict(metric: str, gain: float, low: float, high: float, rows: int, scale: float) -> Message:
    """In words; a gain below a hundredth of the scale is called small. More is better, also of an error rate."""
    template = "{rows} rows, twice as many, would better {metric} by {gain:+.3g} ({low:+.3g} to {high:+.3g})"
    forecast = Message(template, rows=rows, metric=metric, gain=gain, low=low, high=high)
    if low > 0 and gain > 0.01 * scale:
        return Message("more rows would help: {said}", said=forecast)
    if low > 0:
        return Message("more rows would help a little: {said}", said=forecast)
    if high > 0.01 * scale:
        return Message("whether more rows would help is not clear: {said}", said=forecast)
    return Message("more rows would not help: {said}", said=forecast)
