"""The picture of a learning curve: a logarithmic axis, round numbers, nothing outside of the picture."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from keeltune.reports import curve_chart


def card(rows, values, half, twice=None):
    points = [{"rows": n, "value": v, "interval": [v - half, v + half], "draws": [v]} for n, v in
              zip(rows, values, strict=True)]  # fmt: skip
    along = np.geomspace(rows[0], 2 * rows[-1], 33)
    curve = [{"rows": n, "value": values[-1], "interval": [values[-1] - 5 * half, values[-1] + 5 * half]}
             for n in along]  # fmt: skip
    found = None if twice is None else {"rows": 2 * rows[-1], "value": twice, "interval": [twice - half, twice + half]}
    return {"points": points, "twice": found, "curve": curve if found else []}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.8, 0.963, [0.8, 0.85, 0.9, 0.95, 1.0]),
        (0.02, 0.31, [0.0, 0.1, 0.2, 0.3, 0.4]),
        (410, 995, [400, 600, 800, 1000]),
        (0.9, 0.9, None),
        (-0.2, 0.1, [-0.2, -0.1, 0, 0.1]),
    ],
)
def test_ticks_are_round_and_hold_the_values(low, high, expected):
    ticks = curve_chart.round_ticks(low, high)
    assert expected is None or ticks == pytest.approx(expected)
    assert ticks[0] <= low + 1e-9 and ticks[-1] >= high - 1e-9 and 1 <= len(ticks) <= 7
    assert ticks == sorted(set(ticks))


def circles(svg):
    return [(float(x), float(y)) for x, y in re.findall(r'<circle[^>]* cx="([\d.-]+)" cy="([\d.-]+)"', svg)]


def test_rows_are_on_a_logarithmic_axis_and_better_is_higher():
    svg = curve_chart.picture(card([50, 100, 200, 400], [0.7, 0.8, 0.85, 0.9], 0.02, 0.93), "rows", "accuracy")
    places = circles(svg)
    across, heights = np.diff([x for x, _ in places]), np.diff([y for _, y in places])
    assert len(places) == 5 and across == pytest.approx(np.full(4, across[0]), abs=0.11) and (heights < 0).all()
    assert re.findall(r'text-anchor="middle">(\d+)</text>', svg) == ["800", "400", "200", "100", "50"]


@pytest.mark.parametrize(
    ("rows", "values", "half", "twice"),
    [([50, 100, 200, 400], [0.7, 0.8, 0.85, 0.9], 0.3, 0.95),
     ([3, 6, 12, 24000], [900.0, 500.0, 450.0, 440.0], 9.0, 430.0), ([10, 20, 30, 40], [0.5] * 4, 0.0, None)],
)  # fmt: skip
def test_nothing_lies_outside(rows, values, half, twice):
    svg = curve_chart.picture(card(rows, values, half, twice), "rows", "<accuracy>")
    assert "<accuracy>" not in svg and "&lt;accuracy&gt;" in svg
    places = [*circles(svg), *((float(x), float(y)) for x, y in re.findall(r"(?<=[ \"])([\d.-]+),([\d.-]+)", svg))]
    assert all(0 <= x <= curve_chart.WIDTH and 0 <= y <= curve_chart.HEIGHT for x, y in places)
    assert svg.count("<circle") == len(rows) + (twice is not None)


def test_numbers_of_rows_do_not_cover_one_another():
    svg = curve_chart.picture(card([90000, 95000, 99000, 100000], [0.7, 0.8, 0.85, 0.9], 0.02), "rows", "accuracy")
    shown = [(float(x), text) for x, text in re.findall(r'<text x="([\d.]+)" y="\d+" text-anchor="middle">(\d+)<', svg)]
    assert shown[0][1] == "100000" and all(a - b > 40 for (a, _), (b, _) in itertools.pairwise(shown))
