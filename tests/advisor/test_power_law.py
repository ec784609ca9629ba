"""The curves that points leave possible: held against closed forms, and f that never rises."""

from __future__ import annotations

import numpy as np
import pytest

from keeltune.advisor import power_law
from keeltune.advisor.power_law import Fit, Points

ROWS = np.array([100.0, 200.0, 400.0, 800.0])


def points(errors, sd=1e-4, correlation=0.0, scale=1.0, rows=ROWS):
    errors = np.asarray(errors, dtype=float)
    return Points(rows, errors, np.full(len(errors), sd), correlation, scale)


@pytest.mark.parametrize(("a", "b", "c", "d"), [(0.05, 3.0, 0.5, 0), (0.0, 1.0, 0.25, 0), (0.02, 40.0, 1.0, 200)])
def test_a_power_law_is_continued(a, b, c, d):
    def error(n):
        return a + b * (n + d) ** -c

    found = Fit(points(error(ROWS))).at(1600)
    assert np.median(found.measured) == pytest.approx(error(1600), rel=0.05)
    low, high = np.percentile(found.true, [2.5, 97.5])
    assert low < error(1600) < high and high - low < 0.5 * error(800)


@pytest.mark.parametrize("errors", [[0.055, 0.06, 0.07, 0.078], [0.3, 0.2, 0.1, 0.2], [0.0, 0.0, 0.0, 0.01]])
def test_no_curve_rises(errors):
    fit = Fit(points(errors, sd=0.01))
    heights = np.stack([fit.drawn.at(n) for n in (50, 100, 200, 400, 800, 1600, 3200)])
    assert (np.diff(heights, axis=0) <= 1e-12).all() and (heights >= 0).all()


def test_points_that_rise_are_levelled():
    fit = Fit(points([0.06, 0.062, 0.064, 0.066], sd=0.002))
    assert np.median(fit.drawn.at(1600)) == pytest.approx(0.063, abs=0.003)


def test_one_shape_is_generalised_least_squares(monkeypatch):
    """With one shape s and one κ: f(N) is normal around s'V⁻¹y / s'V⁻¹s with variance 1 / s'V⁻¹s."""
    for name, value in (("ASYMPTOTES", 0.2), ("SLOPES", 0.5), ("SCATTERS", 0.05), ("SHIFTS", 0.0), ("COMMON", 1.0)):
        monkeypatch.setattr(power_law, name, np.array([value]))
    errors, sd, rho = np.array([0.30, 0.22, 0.17, 0.13]), np.array([0.03, 0.02, 0.01, 0.01]), 0.5
    fit = Fit(Points(ROWS, errors, sd, rho, None))
    shape = 0.2 + 0.8 * (ROWS / 800) ** -0.5
    spread, test = fit._errors, fit._test_sd
    assert test == pytest.approx(sd * np.sqrt(spread / errors))
    covariance = np.outer(test, test) * (rho + (1 - rho) * np.eye(4)) + np.diag((0.05 * spread) ** 2)
    precision = shape @ np.linalg.solve(covariance, shape)
    level = shape @ np.linalg.solve(covariance, errors) / precision
    assert fit.drawn.level.mean() == pytest.approx(level, abs=4 * precision**-0.5 / np.sqrt(power_law.DRAWS))
    assert fit.drawn.level.std() == pytest.approx(precision**-0.5, rel=0.05)
    a, b, c, d = (fit.drawn.likeliest[name] for name in "abcd")
    assert (c, d) == (0.5, 0) and a + b * ROWS**-c == pytest.approx(level * shape)


def test_what_the_test_rows_made_of_the_points_is_expected_of_the_next_one(monkeypatch):
    """On the same test rows a further score is as far off the curve as the points are; on others it is not."""
    for name, value in (("ASYMPTOTES", 1.0), ("SLOPES", 0.5), ("SCATTERS", 1e-3), ("SHIFTS", 0.0), ("COMMON", 1.0)):
        monkeypatch.setattr(power_law, name, np.array([value]))
    found = Fit(points([0.2, 0.2, 0.2, 0.2], sd=0.02, correlation=0.95)).at(1600)
    # the error of all is 0.2 give or take 0.02 √(ρ + (1 − ρ) / 4); the next measured one, given them, √(1 − ρ) √(1 + ¼)
    assert found.true.std() == pytest.approx(0.02 * np.sqrt(0.95 + 0.05 / 4), rel=0.06)
    assert found.measured.std() == pytest.approx(0.02 * np.sqrt(0.05 * 1.25), rel=0.06)


def test_the_test_rows_tell_more_of_a_point_that_has_more():
    wide, narrow = (Fit(points([0.3, 0.2, 0.15, 0.12], sd=sd)).at(1600).true for sd in (0.03, 0.005))
    assert wide.std() > 1.5 * narrow.std()


def test_draws_of_one_size_tell_how_trainings_scatter():
    rows = np.repeat(ROWS, 3)
    alike = np.repeat([0.2, 0.16, 0.13, 0.11], 3)
    apart = alike * np.tile([0.7, 1.0, 1.3], 4)
    scatter = [np.median(power_law.SCATTERS[Fit(points(e, sd=0.003, rows=rows)).drawn.scatter]) for e in (alike, apart)]
    assert scatter[0] < 0.05 and 0.2 < scatter[1] < 0.5
