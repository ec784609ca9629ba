"""Charts: round numbers on their axes, every mark within the picture at any width, and nothing of a text as markup."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeltune.reports import charts
from keeltune.reports.axes import MOST, axis
from keeltune.reports.charts import ABOVE, DOTTED, DRAWN, PLOT, NamedPoint, lines, plane, ranges, shares
from tests.helpers.pages import Page

NUMBERS = st.floats(-1e12, 1e12, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-9)


def drawn(svg: str, tag: str) -> list[dict[str, str]]:
    return [attributes for name, attributes in Page(svg).tags if name == tag]


def across(text: str) -> float:
    assert text.endswith("%")
    return float(text[:-1])


def path(attributes: dict[str, str]) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in attributes["points"].split()]


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.integers(3, 8))
def test_ticks_are_round_and_hold_all_values(values: list[float], most: int):
    found = axis(values, most=most)
    assert 2 <= len(found.ticks) <= most
    assert found.low <= min(values) + 1e-6 * found.step
    assert found.high >= max(values) - 1e-6 * found.step
    mantissa = found.step / 10 ** math.floor(math.log10(found.step) + 1e-9)
    assert min(abs(mantissa - round_one) for round_one in (1, 2, 2.5, 5)) < 1e-6
    for tick in found.ticks:
        assert tick / found.step == pytest.approx(round(tick / found.step), abs=1e-6)
    texts = [found.text(tick) for tick in found.ticks]
    assert len(set(texts)) == len(texts) or found.step < 1e-3 * abs(found.high)


@pytest.mark.parametrize(
    ("values", "whole", "texts"),
    [
        ([0.873, 0.921], False, ["0.87", "0.88", "0.89", "0.90", "0.91", "0.92", "0.93"]),
        ([0.0, 1.0], False, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([-0.03, 0.012], False, ["−0.03", "−0.02", "−0.01", "0.00", "0.01", "0.02"]),
        ([1, 36], True, ["0", "10", "20", "30", "40"]),
        ([3, 3], True, ["2", "3", "4"]),
        ([0.5, 0.5], False, ["0.47", "0.48", "0.49", "0.50", "0.51", "0.52", "0.53"]),
        ([0, 2_000_000], True, ["0", "5e+05", "1e+06", "1.5e+06", "2e+06"]),
    ],
)
def test_ticks_as_they_are_written(values, whole, texts):
    found = axis(values, whole=whole, most=max(MOST, len(texts)))
    assert [found.text(tick) for tick in found.ticks] == texts


@pytest.mark.parametrize(
    "series", [{"a": [(1.0, 2.0)]}, {"a": [(1, 2), (2, 2)], "b": []}, {"a": [(0, 1e9), (1e6, -1e-9)]}]
)
def test_lines_lie_within_their_picture(series: dict):
    svg = lines(series, "x", "y")
    paths = drawn(svg, "polyline")
    assert len(paths) == sum(bool(p) for p in series.values())
    for one in paths:
        for x, y in path(one):
            assert 0 <= x <= 1000
            assert ABOVE - 0.1 <= y <= ABOVE + PLOT + 0.1
    dots = drawn(svg, "circle")
    assert len(dots) == sum(len(points) for points in series.values())
    assert all(0 <= across(dot["cx"]) <= 100 for dot in dots)


def test_dots_lie_on_their_line_and_a_higher_value_lies_higher():
    svg = lines({"a": [(0, 1.0), (1, 3.0), (4, 2.0)]}, "x", "y")
    (one,) = drawn(svg, "polyline")
    dots = [(across(dot["cx"]), float(dot["cy"])) for dot in drawn(svg, "circle")]
    assert [x for x, _ in path(one)] == pytest.approx([10 * x for x, _ in dots])
    assert [y for _, y in path(one)] == pytest.approx([y for _, y in dots])
    (x0, y0), (x1, y1), (x2, y2) = dots
    assert x0 < x1 < x2
    assert y1 < y2 < y0


def test_a_line_of_many_points_is_thinned_and_keeps_its_peaks():
    points = [(step, math.sin(step / 7)) for step in range(5000)]
    points[1234] = (1234, 50.0)
    points[4321] = (4321, -50.0)
    svg = lines({"a": points}, "step", "y")
    (one,) = drawn(svg, "polyline")
    kept = path(one)
    assert len(kept) <= DRAWN
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    assert (kept[0][0], round(kept[-1][0], 1)) == (0, round(1000 * 4999 / 5000, 1))
    heights = [y for _, y in kept]
    assert (min(heights), max(heights)) == (ABOVE, ABOVE + PLOT)  # the axis goes from -50 to 50
    assert len(drawn(svg, "circle")) == 1
    assert len(points) > DOTTED


def test_what_is_no_number_is_left_out():
    svg = lines({"a": [(0, 1.0), (1, math.inf), (2, 2.0)], "b": [(0, math.nan)]}, "x", "y")
    (one,) = drawn(svg, "polyline")
    assert len(path(one)) == 2
    assert "nan" not in svg
    assert "inf" not in svg


def test_lines_are_named_in_a_legend():
    names = [f"seed {n}" for n in range(40)]
    page = Page(lines({name: [(0, 3.0), (1, 0.001)] for name in names}, "x", "y"))
    assert [word for word in page.words if word.startswith("seed")] == names
    assert "cross-entropy" in Page(lines({"cross-entropy": [(0, 1), (1, 2)], "b": []}, "x", "y")).words


@pytest.mark.parametrize(
    "svg",
    [
        lines({"a": [(0, -0.5), (1, 0.5)]}, "x", "y"),
        ranges([("a", 0.1, -0.1, 0.2)], "change"),
        plane([NamedPoint("a", (-0.1,), (0.5,)), NamedPoint("b", (0.1,), (0.6,))], "x", "y"),
    ],
)
def test_zero_has_a_line_of_its_own(svg):
    zero = [line for line in drawn(svg, "line") if line["class"] == "zero"]
    words = Page(svg).words
    assert len(zero) >= 1
    assert [word for word in words if word.strip("0.") == "" and "0" in word]


def test_ranges_lie_where_their_values_do():
    svg = ranges([("a", 0.5, 0.4, 0.6), ("b", 0.9, None, None), ("c", 0.3, 0.3, 1.0)], "share")
    dots = [across(dot["cx"]) for dot in drawn(svg, "circle")]
    assert dots == pytest.approx([100 * (v - 0.2) / 0.8 for v in (0.5, 0.9, 0.3)])
    bars = [line for line in drawn(svg, "line") if line["class"] in ("s0", "s2")]
    ends = [[across(bar[end]) for end in ("x1", "x2")] for bar in bars]
    assert ends[0] == pytest.approx([25.0, 50.0])
    assert ends[1] == pytest.approx([12.5, 100.0])
    assert [dot["class"] for dot in drawn(svg, "circle")] == ["s0", "s1 hollow", "s2"]


def test_what_ranges_are_in_stands_below_their_numbers():
    svg = ranges([("a", 0.5, 0.4, 0.6)], f"over clusters of {'x' * 200}")
    heights = {word: float(a["y"]) for word, a in zip(Page(svg).words, drawn(svg, "text"), strict=True)}
    label = next(height for word, height in heights.items() if word.startswith("over"))
    assert label >= heights["0.40"] + 14
    assert heights["a"] < heights["0.40"]
    assert max(len(word) for word in heights) <= 60


def test_bars_are_as_long_as_their_shares():
    svg = shares({"a": {"x": 1, "y": 3}, "b": {"y": 5}}, {"a": 4, "b": 5})
    bars = [line for line in drawn(svg, "line") if not line["class"].startswith("axis")]
    lengths = [across(bar["x2"]) - across(bar["x1"]) for bar in bars]
    assert lengths == pytest.approx([0.25 * lengths[3], 0.75 * lengths[3], 0, lengths[3]], abs=0.02)
    assert max(across(bar["x2"]) for bar in bars) <= 100


def test_names_in_a_plane_lie_within_it_and_apart():
    points = [NamedPoint(f"run {n} {'x' * 40}", (0.5 + n / 1e4,), (0.5,)) for n in range(6)]
    svg = plane(points, "x", "y")
    names = [a for a, word in zip(drawn(svg, "text"), Page(svg).words, strict=True) if word.startswith("run")]
    for name in names:  # on the side where there is room: half of 290 pixels for 22 letters
        assert ("text-anchor" in name) == (across(name["x"]) > 50)
    heights = sorted(float(name["y"]) for name in names)
    assert min(b - a for a, b in pairwise(heights)) >= 13.9 or len({n["x"] for n in names}) > 1
    for word in Page(svg).words:
        assert len(word) <= 22


@pytest.mark.parametrize("hostile", ["<script>", '"onload="x', "\u202etxt", "</svg>"])
def test_names_stay_text(hostile):
    pictures = (
        lines({hostile: [(0, 1), (1, 2)], "b": [(0, 2)]}, hostile, hostile),
        ranges([(hostile, 0.5, 0.1, 0.9)], hostile),
        shares({hostile: {hostile: 1}}, {hostile: 1}),
        plane([NamedPoint(hostile, (0.1,), (0.5,))], hostile, hostile),
    )
    for picture in pictures:
        page = Page(picture)
        assert page.open == []
        assert "\u202e" not in picture
        assert {tag for tag, _ in page.tags} <= {"div", "p", "span", "svg", "text", "line", "circle", "polyline"}
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_a_long_name_is_cut_by_its_width():
    assert charts.short("a" * 28) == "a" * 28
    assert charts.short("a" * 29) == "a" * 27 + "…"
    assert charts.short("汉" * 15) == "汉" * 13 + "…"
