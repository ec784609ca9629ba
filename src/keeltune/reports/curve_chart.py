"""The picture of a learning curve: points with intervals, the curve in its band, and what twice the rows would bring.

Inline SVG like every chart, drawn for the width of a telephone: what is read at 390 pixels is read at any width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keeltune.reports.charts import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380, 270, 46, 18, 26, 44

LETTER = 7.0
"""How wide a digit is, about."""

Scale = Callable[[float], float]


def picture(card: Mapping[str, Any], x_label: str, y_label: str) -> str:
    """The card of `extrapolation.extrapolate`; without a forecast the points alone."""
    points, twice, curve = card["points"], card["twice"], card["curve"]
    rows = [point["rows"] for point in points] + ([twice["rows"]] if twice else [])
    marked = [*points, *([twice] if twice else [])]
    ends = [end for mark in marked for end in (*mark["interval"], mark["value"], *mark.get("draws", ()))]
    ticks = round_ticks(min(ends), max(ends))
    low, high = min(ticks[0], *ends), max(ticks[-1], *ends)
    x_of, y_of = _places(min(rows), max(rows), low, high)
    parts = [_grid(rows, ticks, x_of, y_of), _named(x_label, y_label)]
    if curve:
        parts.append(_band(curve, points[-1]["rows"], x_of, lambda value: y_of(min(max(value, low), high))))
    for point in points:
        x = x_of(point["rows"])
        parts.append(_upright("s0", x, [y_of(end) for end in point["interval"]]))
        draws = point["draws"] if len(point["draws"]) > 1 else []
        parts += [f'<circle class="s0 hollow" cx="{x:.1f}" cy="{y_of(draw):.1f}" r="2.5"/>' for draw in draws]
        parts.append(f'<circle class="s0" cx="{x:.1f}" cy="{y_of(point["value"]):.1f}" r="4"/>')
    if twice:
        x = x_of(twice["rows"])
        parts.append(_upright("s1", x, [y_of(end) for end in twice["interval"]]))
        parts.append(f'<circle class="s1" cx="{x:.1f}" cy="{y_of(twice["value"]):.1f}" r="5"/>')
    label = escape(f"{y_label}, {x_label}")
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return f'<div class="chart curve">{svg}</div>'


def _places(fewest: float, most: float, low: float, high: float) -> tuple[Scale, Scale]:
    """Where a number of rows lies, on a logarithmic axis, and where a score does."""
    wide, span = math.log(max(most, fewest * 1.01) / fewest), max(high - low, 1e-9)
    left, right = LEFT + 14, WIDTH - RIGHT - 10

    def x_of(rows: float) -> float:
        return left + math.log(rows / fewest) / wide * (right - left)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / span * (HEIGHT - BOTTOM - TOP)

    return x_of, y_of


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high] and the next on either side, `most` or fewer."""
    span = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-12)
    size = 10.0 ** math.floor(math.log10(span / most))
    for step in (size * factor for factor in (1, 2, 5, 10, 20, 50)):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _grid(rows: Sequence[int], ticks: Sequence[float], x_of: Scale, y_of: Scale) -> str:
    """Both axes: round numbers of the score, and the numbers of rows that were trained on."""
    parts = []
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'<line class="axis thin" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{tick:.5g}</text>')
    taken = math.inf
    for number in sorted(set(rows), reverse=True):  # the last ones say most
        x, text = x_of(number), str(number)
        parts.append(
            f'<line class="axis" x1="{x:.1f}" y1="{HEIGHT - BOTTOM}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM + 4}"/>'
        )
        half = len(text) * LETTER / 2
        if x + half < taken:
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{text}</text>')
            taken = x - half - 4
    return "".join(parts)


def _named(x_label: str, y_label: str) -> str:
    across = (LEFT + WIDTH - RIGHT) / 2
    return (
        f'<text x="{across}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="4" y="13">{escape(y_label)}</text>'
    )


def _band(curve: Sequence[Mapping[str, Any]], trained: float, x_of: Scale, y_of: Scale) -> str:
    """The band, and the curve in it: dashed beyond the rows that were trained on."""
    places = [(x_of(at["rows"]), y_of(at["value"]), *map(y_of, at["interval"])) for at in curve]
    there = [f"{x:.1f},{low:.1f}" for x, _, low, _ in places]
    back = [f"{x:.1f},{high:.1f}" for x, _, _, high in reversed(places)]
    known = sum(at["rows"] <= trained * 1.0001 for at in curve)
    lines = [(places[:known], ""), (places[max(0, known - 1) :], ' stroke-dasharray="5 4"')]
    drawn = [
        f'<polyline class="s0"{dashed} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, *_ in part)}"/>'
        for part, dashed in lines
    ]
    return f'<polygon class="band" points="{" ".join([*there, *back])}"/>{"".join(drawn)}'


def _upright(kind: str, x: float, ends: Sequence[float]) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" y1="{ends[0]:.1f}" x2="{x:.1f}" y2="{ends[1]:.1f}"/>'
