"""What points foretell: bands that hold what comes, whichever way a metric goes, and words that follow them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from scipy.stats import norm

from keeltune import recipe
from keeltune.advisor import extrapolation
from keeltune.advisor.extrapolation import Measured, Score, Trained
from keeltune.evaluation import bootstrap
from keeltune.runs import opened_model, run, run_folder
from keeltune.utils.progress import Display
from tests.helpers.runs import lines, make_data, spec_of, write_rows

QUIET = Display(quiet=True)
ACCURACY, LOSS = Score(1.0, 1.0, 0.0), Score(-1.0, None, 0.0)


def measured_of(rows, wrong, draws=200, seed=0):
    """Accuracies of trainings whose test rows are wrong [K, M], as a run measures them."""
    right = 1.0 - np.asarray(wrong)
    counts = np.random.default_rng(seed).multinomial(right.shape[1], np.full(right.shape[1], 1 / right.shape[1]), draws)
    values = right.mean(1)
    intervals = np.array([bootstrap.share_interval(value, right.shape[1]) for value in values])
    return Measured(np.asarray(rows, dtype=float), values, intervals, (right @ counts.T) / right.shape[1])


def told(measured, score=ACCURACY, metric="accuracy"):
    last = int(np.argmax(measured.rows))
    point = {"value": float(measured.values[last]), "interval": list(measured.intervals[last])}
    return extrapolation.foretold(measured, score, point, metric)


def around(rows, values, half=0.02):
    """Scores with intervals so wide, of test rows that move all alike."""
    values = np.asarray(values, dtype=float)
    ends = np.stack([values - half, values + half], axis=1)
    moved = np.random.default_rng(0).normal(size=400) * half / 1.96
    return Measured(np.asarray(rows, dtype=float), values, ends, values[:, None] + moved)


ROWS = [100, 200, 400, 800]


def world(random):
    """A curve of errors; trainings scatter around it, and the same test rows are hard for all."""
    most, last = random.choice([100, 400, 1000]), np.exp(random.uniform(np.log(0.02), np.log(0.4)))
    c, asymptote, shift = random.uniform(0.1, 1.0), random.uniform(0, 0.95), random.choice([0.0, 0.3])
    rows = np.array([most / 8, most / 4, most / 2, most, 2 * most])
    errors = last * (asymptote + (1 - asymptote) * ((rows / most + shift) / (1 + shift)) ** -c)
    errors = np.minimum(errors, 0.9)
    scatter = random.choice([0.02, 0.08, 0.15])
    errors = 1 / (1 + np.exp(-np.log(errors / (1 - errors)) - scatter * random.standard_normal(5)))
    alike, count = random.uniform(0.3, 0.8), random.choice([200, 600])
    hard = np.sqrt(alike) * random.standard_normal(count)
    return rows, hard + np.sqrt(1 - alike) * random.standard_normal((5, count)) < norm.ppf(errors)[:, None]


def test_what_comes_lies_within_the_bands(monkeypatch):
    monkeypatch.setattr(extrapolation, "ALONG", 2)  # the curve is not asked for
    random, inside, gains, widths = np.random.default_rng(3), [], [], []
    for _ in range(100):
        rows, wrong = world(random)
        measured = measured_of(rows[:4], wrong[:4])
        twice, came = told(measured)["twice"], 1 - wrong[4].mean()
        (low, high), (least, most) = twice["interval"], twice["gain_interval"]
        inside.append(low <= came <= high)
        gains.append(least <= came - measured.values[-1] <= most)
        widths.append((high - low) / np.ptp(measured.intervals[-1]))
    assert np.mean(inside) >= 0.95 and np.mean(gains) >= 0.95
    assert np.median(widths) < 2  # not of the whole range: at most twice what the test rows alone make uncertain


@pytest.mark.parametrize("values", [[0.93, 0.94, 0.945, 0.922], [0.945, 0.94, 0.93, 0.92], [0.90, 0.92, 0.91, 0.95]])
def test_more_rows_are_never_foretold_to_hurt(values):
    card = told(around(ROWS, values))
    assert card["twice"]["value"] >= values[-1] and card["twice"]["gain"] >= 0
    heights = [at["value"] for at in card["curve"]]
    assert all(np.diff(heights) > -0.004)  # the level of the test rows' luck, no slope


@pytest.mark.parametrize("half", [0.001, 0.05])
def test_a_band_is_no_narrower_than_the_last_point(half):
    low, high = told(around(ROWS, [0.6, 0.7, 0.75, 0.8], half))["twice"]["interval"]
    assert high - low >= 2 * half - 1e-9


def test_a_metric_that_falls_is_read_as_one():
    rising = told(around(ROWS, [0.70, 0.80, 0.86, 0.90], 0.004))["twice"]
    falling = told(around(ROWS, [0.30, 0.20, 0.14, 0.10], 0.004), LOSS, "loss")["twice"]
    assert falling["value"] < 0.1 and falling["gain"] > 0 and falling["interval"][0] >= 0
    assert falling["value"] == pytest.approx(1 - rising["value"], abs=0.01)
    large = told(around(ROWS, [900.0, 700.0, 600.0, 550.0], 9.0), LOSS, "loss")["twice"]  # an error in its own unit
    assert 450 < large["value"] <= 550 and large["interval"][1] < 700


def test_scores_stay_where_scores_can_be():
    perfect = told(around(ROWS, [0.99, 0.995, 1.0, 1.0], 0.01))["twice"]
    assert perfect["value"] == perfect["interval"][1] == 1.0 and perfect["gain"] == 0
    nothing = told(around(ROWS, [0.0, 0.01, 0.02, 0.02], 0.03), Score(1.0, 100.0, 0.0), "bleu")["twice"]
    assert nothing["interval"][0] == 0.0
    below = told(around(ROWS, [-0.3, -0.2, -0.1, -0.05], 0.2), Score(1.0, 1.0, -0.5), "mcc")["twice"]
    assert below["interval"][0] < 0 and below["value"] >= -0.05


def test_words_follow_the_interval_of_the_gain():
    def said(gain, ends, better, metric="accuracy", now=0.9):
        twice = {"rows": 2000, "value": now + gain, "interval": [0.9, 0.96], "gain": gain, "gain_interval": ends,
                 "better": better}  # fmt: skip
        return extrapolation.verdict(metric, now, twice, 1.0)

    assert said(0.03, [0.01, 0.05], 0.999) == (
        "more rows would help: 2000 rows, twice as many, would bring accuracy from 0.9 to 0.93 (0.9 to 0.96); "
        "it would be better with a probability of 99%"
    )
    assert "help a little:" in said(0.004, [0.001, 0.008], 0.98)
    assert "we cannot tell whether" in said(0.01, [-0.01, 0.03], 0.8)
    assert "would hardly help" in said(0.0, [-0.004, 0.004], 0.5)


def test_what_cannot_be_told_is_said():
    card = told(around(ROWS, [0.88, 0.90, 0.905, 0.91], 0.02))
    assert card["twice"]["gain_interval"][0] < 0 < card["twice"]["gain_interval"][1]
    assert card["verdict"].startswith("we cannot tell")
    assert 0.5 < card["twice"]["better"] < 0.975


def test_a_steep_curve_of_several_draws_would_help():
    rows = np.repeat(ROWS, [3, 3, 3, 1])
    values = np.repeat([0.40, 0.55, 0.67, 0.76], [3, 3, 3, 1]) + np.tile([-0.003, 0.0, 0.003], 4)[:10]
    card = told(around(rows, values, 0.01))
    assert card["verdict"].startswith("more rows would help: 1600 rows") and card["twice"]["better"] > 0.975


def test_what_holds_no_curve():
    rows, flat = np.array([100.0, 200.0, 400.0, 800.0]), [[0.1, 0.2]] * 4
    assert "3 different numbers" in extrapolation.no_forecast(np.array([100.0, 200.0, 400.0, 400.0]), flat, lambda: 0.5)
    assert (
        extrapolation.no_forecast(rows, flat, lambda: 0.5) is None
    )  # flat, and far better than by chance: more rows do not help
    assert "no better" in extrapolation.no_forecast(rows, flat, lambda: 0.2)
    rising = [[0.5, 0.6], [0.4, 0.5], [0.3, 0.4], [0.2, 0.3]]
    assert extrapolation.no_forecast(rows, rising, lambda: 0.25) is None


def test_the_trivial_answer_is_the_best_of_the_constant_ones(tiny, tmp_path):
    make_data(tmp_path)
    done = run.train(recipe.from_dict(spec_of("fine-tuning", tiny("bert")), tmp_path), display=QUIET)
    file = done.folder / "predictions" / "test.jsonl"
    told = lines(file)
    given = [{**line, "gold": "negative" if n % 4 else "positive", "prediction": "positive" if n % 3 else "negative"}
             for n, line in enumerate(told)]  # fmt: skip
    write_rows(file, given)
    task = opened_model.open_model(done.folder, None).task
    assert extrapolation.constant(task, [done], "test", "accuracy") == pytest.approx(0.25)
    assert extrapolation.constant(task, [done], "test", "loss") == np.inf


def test_draws_of_a_share_are_one_point(tiny, tmp_path):
    make_data(tmp_path)
    done = run.train(recipe.from_dict(spec_of("fine-tuning", tiny("bert")), tmp_path), display=QUIET)
    other, trained = {"negative": "positive", "positive": "negative"}, []
    for share, draw, errors in ((0.125, 0, 9), (0.125, 1, 7), (0.25, 0, 6), (0.5, 0, 4), (1.0, 0, 3)):
        folder = tmp_path / f"part-{share}-{draw}"
        shutil.copytree(done.folder, folder)
        file = folder / "predictions" / "test.jsonl"
        write_rows(file, [{**line, "prediction": other[line["gold"]] if n < errors else line["gold"]}
                          for n, line in enumerate(lines(file))])  # fmt: skip
        result = {**done.result, "data": {**done.result["data"], "train": {"rows": int(800 * share)}}}
        value = 1 - errors / len(lines(file))
        result["metrics"] = {**done.result["metrics"], "test": {"accuracy": value}}
        result["intervals"] = {"test": {"accuracy": list(bootstrap.share_interval(value, len(lines(file))))}}
        trained.append(Trained(share, draw, run_folder.Run(folder, result)))
    card = extrapolation.extrapolate(trained)
    assert [point["rows"] for point in card["points"]] == [100, 200, 400, 800]
    first = card["points"][0]
    assert first["draws"] == pytest.approx([0.55, 0.65]) and first["value"] == pytest.approx(0.60)
    assert first["interval"][0] < 0.55 and first["interval"][1] > 0.65
    assert card["twice"]["rows"] == 1600 and card["twice"]["value"] >= 0.85
    assert card["points"][-1]["interval"] == pytest.approx(bootstrap.share_interval(0.85, 20))
