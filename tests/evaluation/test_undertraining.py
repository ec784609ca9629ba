"""The eleventh sign: courses of a loss with known answers, and lights that stay green where a model has learnt."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keeltune.evaluation import overfitting, undertraining

LINEAR = [(1 - k / 60) * 1e-3 for k in range(60)]
"""A rate that falls to 0."""


def log_of(loss_at, rates=LINEAR, noise=0.0):
    """A log of ten steps an entry whose cross-entropy is a function of t, the share of all learning done by then."""
    drawn, entries, done = np.random.default_rng(0), [], 0.0
    for k, rate in enumerate(rates, 1):
        t = (done + rate / 2) / sum(rates)
        done += rate
        value = float(loss_at(t) + noise * drawn.normal())
        entries.append({"step": 10 * k, "learning_rate": rate, "cross_entropy": value})
    return entries


def test_a_straight_fall_has_half_of_it_in_the_second_half_whatever_the_schedule():
    for rates in (LINEAR, [1e-3] * 60):
        went = undertraining.course(log_of(lambda t: 2.3 - 0.4 * t, rates))
        assert went.late == pytest.approx(0.5, abs=0.02)
        assert went.last == pytest.approx(1.9, abs=0.01)


def test_an_exponential_fall_has_as_much_late_as_its_closed_form_says():
    went = undertraining.course(log_of(lambda t: 1 + 2 * math.exp(-3 * t), [1e-3] * 400))
    slope = 12 * sum((t - 0.75) * 2 * math.exp(-3 * t) for t in np.linspace(0.5, 1, 2001)) / 2001 / 0.25
    first, mean = 1 + 2 * math.exp(-3 / 800), 1 + sum(2 * math.exp(-3 * t) for t in np.linspace(0.5, 1, 2001)) / 2001
    assert went.late == pytest.approx(-slope / 2 / (first - mean - slope * 0.25), rel=0.02)
    assert undertraining.traffic_light(went.late, undertraining.LATE) == "green"


def test_a_loss_that_has_settled_or_only_scatters_is_not_falling():
    assert undertraining.course(log_of(lambda t: 0.05 + 2.2 * math.exp(-20 * t), noise=0.02)).late == 0.0
    assert undertraining.course(log_of(lambda t: 2.5, noise=0.05)).late == 0.0
    assert undertraining.course([]) is None


def sign_of(went, accuracy=None, confidence=None, **changes):
    how = {"entropy": math.log(10), "steps": 36, "new_head": True, "best_is_last": True} | changes
    answers = None if accuracy is None else (accuracy, confidence)
    return undertraining.undertrained(went, answers=answers, **how)


def test_the_recipe_of_five_lines_on_four_hundred_rows_is_red():
    went = undertraining.Course(2.30, 2.06, 0.48)
    found = sign_of(went, 0.89, 0.129)
    assert found.light == "red"
    assert "36 steps" in found.said and "89%" in found.said and "13%" in found.said and "training.epochs" in found.said
    assert sign_of(went).light == "red"  # of the loss alone
    assert sign_of(None, 0.89, 0.129).light == "red"  # of the answers alone
    assert sign_of(undertraining.Course(2.31, 2.30, 0.0)).light == "red"  # it has hardly begun


@pytest.mark.parametrize(
    ("went", "answers", "changes"),
    [
        (undertraining.Course(2.3, 0.1, 0.0), (0.98, 0.97), {"steps": 220}),
        (undertraining.Course(2.3, 0.1, 0.3), (0.98, 0.80), {"steps": 60}),  # smoothed labels: 4 % are left to learn
        (undertraining.Course(0.69, 0.62, 0.0), (0.64, 0.63), {"entropy": math.log(2), "steps": 900}),  # hard, honest
        (undertraining.Course(2.3, 1.4, 0.3), (0.55, 0.52), {"best_is_last": False, "steps": 400}),  # overfits since
    ],
)
def test_a_model_that_has_learnt_what_it_can_is_green(went, answers, changes):
    assert sign_of(went, *answers, **changes).light == "green"


def test_where_text_is_written_the_slope_decides():
    text = {"entropy": None, "steps": 300, "new_head": False}
    assert sign_of(undertraining.Course(6.0, 4.0, 0.45), **text).light == "red"
    assert sign_of(undertraining.Course(3.0, 2.2, 0.3), **text).light == "amber"
    assert sign_of(undertraining.Course(3.0, 2.5, 0.1), **text).light == "green"
    assert sign_of(None, **text) is None


def test_what_is_undertrained_is_not_called_learnt():
    learnt = overfitting.nothing_learnt(2.06, dict.fromkeys("abcdefghij", 40), 36)
    assert learnt.light == "green"
    report = overfitting.report([learnt, sign_of(undertraining.Course(2.3, 2.06, 0.48), 0.89, 0.129)])
    assert [signal["name"] for signal in report["signals"]] == ["undertrained"]
    assert report["verdict"].startswith("undertrained")
    well = overfitting.report([learnt, sign_of(undertraining.Course(2.3, 0.1, 0.0), 0.98, 0.97, steps=220)])
    assert [signal["name"] for signal in well["signals"]] == ["learnt", "undertrained"]
    assert "undertrained" not in well["verdict"]
