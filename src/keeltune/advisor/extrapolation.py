"""What finished trainings on shares of the rows foretell for twice as many: the numbers of a learning curve, in words.

The band at a number of rows holds 95 % of what a training on them would score: every curve that the points leave
possible (`power_law`), what another draw of rows would change, and the test rows' error. It is the wider of two, for
all the test rows there could be and for those that were measured on, so that the score that comes on the same test
rows can be held against it; and never narrower than the interval of the last point. It ends where scores end.

Nothing is foretold from points that hold no curve: fewer than four numbers of rows, or one score within the points'
intervals that is no better than to answer always the same.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from keeltune.advisor import power_law
from keeltune.evaluation import bootstrap, scores, seed_bootstrap
from keeltune.runs import opened_model
from keeltune.runs.run_folder import Run
from keeltune.tasks.metrics import scale_of
from keeltune.tasks.task import Task
from keeltune.utils.json_lines import read_lines
from keeltune.utils.messages import Message

FEWEST = 4
"""Different numbers of rows of a curve that levels off somewhere, from some height, at some speed."""

ROUNDING = 1e-9
"""As a share of the scale: what is below it is 0."""

CONSTANTS = 5
"""How many of the commonest answers are tried as the one that is always given."""

RESAMPLES = 400

SMALL = 0.01
"""A gain that is called small, as a share of the scale, or of the last score where there is none."""

ALONG = 33
"""Places of the curve in `curve`, from the fewest rows to twice the most, evenly on a logarithmic axis."""

NORMAL = 1.959964
"""Standard deviations of half a 95 % interval."""


@dataclass(frozen=True)
class Trained:
    """A finished run on a share of the rows; `draw`: which rows, from 0."""

    share: float
    draw: int
    run: Run


@dataclass(frozen=True)
class Measured:
    """What K trainings scored: rows [K], values [K], intervals [K, 2] of the test rows, and the values on draws of them
    [K, draws], the same draws for all."""

    rows: np.ndarray
    values: np.ndarray
    intervals: np.ndarray
    resampled: np.ndarray


@dataclass(frozen=True)
class Score:
    """How a score is an error, and back: best − sign · error. `scale`: as `scale_of`; `lowest`: no score is lower."""

    sign: float
    scale: float | None
    lowest: float

    @property
    def best(self) -> float:
        return 0.0 if self.sign < 0 else self.scale or 1.0

    def error(self, value: Any) -> Any:
        return self.sign * (self.best - value)

    def bounded(self, value: float) -> float:
        """A score, no better than the best one and no worse than the worst."""
        worst = math.inf if self.sign < 0 else self.lowest
        low, high = sorted((self.best, worst))
        return float(min(max(value, low), high))


def extrapolate(trained: Sequence[Trained]) -> dict[str, Any]:
    """What the runs foretell for twice as many rows as the last share has.

    {"metric", "split", "points": [{"share", "rows", "value" (the mean of its draws), "interval", "draws": [value]}],
    "fit": {"a", "b", "c", "d"} (the likeliest curve), "curve": [{"rows", "value", "interval"}], "twice": {"rows",
    "value", "interval", "gain" (more is better), "gain_interval" (of a training, on the same test rows), "better" (the
    probability of a gain)}, "verdict"}. Where nothing can be foretold "fit" and "twice" are null, "curve" is empty, and
    the verdict says why.
    """
    runs = [one.run for one in trained]
    split = next(name for name in ("test", "validation") if runs[-1].result["metrics"][name])
    task = opened_model.open_model(runs[-1].folder, None, outside=True).task
    metric = task.metrics[0]
    measured = _measured(task, runs, split, metric)
    score = Score(task.primary_sign, scale_of(metric), min(0.0, float(measured.intervals.min())))
    card: dict[str, Any] = {"metric": metric, "split": split, "points": _points(trained, measured)}
    errors = score.error(np.array([point["interval"] for point in card["points"]]))
    if why := no_forecast(measured.rows, errors, partial(constant, task, runs, split, metric)):
        nothing = Message("nothing can be predicted: {why}", why=why)
        return card | {"fit": None, "curve": [], "twice": None, "verdict": nothing}
    return card | foretold(measured, score, card["points"][-1], metric)


def foretold(measured: Measured, score: Score, last: dict[str, Any], metric: str) -> dict[str, Any]:
    """ "fit", "curve", "twice" and "verdict" of a card whose last point is `last`."""
    bound = None if score.scale is None or score.sign < 0 else score.scale - score.lowest
    fit = power_law.Fit(power_law.Points(
        measured.rows, score.error(measured.values), *_test_noise(measured), bound
    ))  # fmt: skip
    twice = 2 * int(measured.rows.max())
    along = np.geomspace(measured.rows.min(), twice, ALONG)
    own = [abs(end - last["value"]) for end in last["interval"]]
    curve = [{"rows": float(rows), **_band(fit.at(float(rows)), score, own)} for rows in along]
    # more rows of the same kind do no harm: what the last point had of luck is no reason to foretell less
    at_twice = fit.at(twice)
    found = _band(at_twice, score, own, at_least=last["value"])
    gains = score.error(last["value"]) - at_twice.measured
    unit = score.scale or abs(last["value"]) or 1.0

    def clean(number: float) -> float:
        return 0.0 if abs(number) < ROUNDING * unit else float(number)

    gain = clean(score.sign * (found["value"] - last["value"]))
    low, high = map(clean, bootstrap.interval(gains))
    better = float(np.mean(gains > ROUNDING * unit))
    forecast = {"rows": twice, **found, "gain": gain, "gain_interval": [low, max(high, gain)], "better": better}
    return {
        "fit": {name: clean(value) for name, value in fit.drawn.likeliest.items()},
        "curve": curve,
        "twice": forecast,
        "verdict": verdict(metric, last["value"], forecast, unit),
    }


def _band(
    found: power_law.Forecast, score: Score, own: Sequence[float], at_least: float | None = None
) -> dict[str, Any]:
    """{"value", "interval"} of a training: `own` is how far the last point's interval reaches below and above it."""
    ends = np.array([np.percentile(draws, [2.5, 97.5]) for draws in (found.true, found.measured)])
    value = score.bounded(score.best - score.sign * float(np.median(found.measured)))
    if at_least is not None:
        value = score.sign * max(score.sign * value, score.sign * at_least)
    low, high = np.sort(score.best - score.sign * np.array([ends[:, 0].min(), ends[:, 1].max()]))
    low, high = min(low, value - own[0]), max(high, value + own[1])
    return {"value": value, "interval": [score.bounded(low), score.bounded(high)]}


def _measured(task: Task, runs: Sequence[Run], split: str, metric: str) -> Measured:
    results = [run.result for run in runs]
    resampled = np.stack([_resampled(task, run, split, metric) for run in runs])
    return Measured(
        np.array([result["data"]["train"]["rows"] for result in results], dtype=float),
        np.array([result["metrics"][split][metric] for result in results]),
        np.array([result["intervals"][split][metric] for result in results]),
        resampled[:, np.isfinite(resampled).all(0)],  # a slow score is not computed for every draw
    )


def _points(trained: Sequence[Trained], measured: Measured) -> list[dict[str, Any]]:
    """One point a share: the mean of its draws, with an interval over test rows and draws."""
    points = []
    for share in sorted({one.share for one in trained}):
        of_share = [i for i, one in enumerate(trained) if one.share == share]
        interval = measured.intervals[of_share[0]]
        if len(of_share) > 1 and measured.resampled.size:
            interval = np.array(bootstrap.interval(seed_bootstrap.over_seeds(list(measured.resampled[of_share]))))
        values = [float(value) for value in measured.values[of_share]]
        rows, mean = int(measured.rows[of_share[0]]), float(np.mean(values))
        points.append({"share": share, "rows": rows, "value": mean, "interval": interval.tolist(), "draws": values})
    return points


def _test_noise(measured: Measured) -> tuple[np.ndarray, float]:
    """The standard deviation that the test rows give each training's score, [K], and its correlation between two.

    That of the bootstrap, but not below a 95 % interval's: a bootstrap sees no error where no row is answered wrongly.
    """
    drawn = measured.resampled.std(1) if measured.resampled.size else np.zeros(len(measured.rows))
    halves = (measured.intervals[:, 1] - measured.intervals[:, 0]) / (2 * NORMAL)
    varied = drawn > ROUNDING
    count = int(varied.sum())
    correlation = 0.0
    if count > 1:
        correlations = np.corrcoef(measured.resampled[varied])
        correlation = float(np.clip((correlations.sum() - count) / (count * (count - 1)), 0.0, 0.95))
    sds = np.maximum(drawn, halves)
    return np.maximum(sds, max(float(sds.max()), 1e-6) * 1e-3), correlation


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


def verdict(metric: str, now: float, twice: dict[str, Any], unit: float) -> Message:
    """In words, by the interval of the gain; a gain below a hundredth of `unit` is called small."""
    (low, high), gain = twice["gain_interval"], twice["gain"]
    template = (
        "{rows} rows, twice as many, would bring {metric} from {now:.3g} to {value:.3g} ({low:.3g} to {high:.3g}); "
        "it would be better with a probability of {better:.0%}"
    )
    ends = dict(zip(("low", "high"), twice["interval"], strict=True))
    better = min(max(twice["better"], 0.01), 0.99)
    said = Message(template, rows=twice["rows"], metric=metric, now=now, value=twice["value"], better=better, **ends)
    if low > 0 and gain > SMALL * unit:
        return Message("more rows would help: {said}", said=said)
    if low > 0:
        return Message("more rows would help a little: {said}", said=said)
    if high > SMALL * unit:
        return Message("we cannot tell whether more rows would help: {said}", said=said)
    return Message("more rows would hardly help: {said}", said=said)
