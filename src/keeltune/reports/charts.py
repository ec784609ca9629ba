"""Charts as inline SVG: no script, no font and no address from outside, readable in light and dark.

A chart is as wide as its column, on a phone as on a desk: places across are percentages, heights and letters pixels, so
that nothing shrinks with it and nothing lies outside. Names stand above their marks, those of lines in a legend.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from keeltune.reports.axes import Axis, axis
from keeltune.utils.sanitization import shown_text

Point = tuple[float, float]

Range = tuple[str, float, float | None, float | None]
"""A name, its value, and the ends of its interval; None where it has none."""

COLOURS = 5
"""Kinds of lines that are told apart: a colour and a dash each, `s0` to `s4` of the page's style."""

PLOT, ABOVE, BELOW = 190, 24, 42
"""Heights in pixels: of a plot, of the label above it, of the numbers and the label below."""

DRAWN = 400
"""Points of a line that are drawn at most; of longer ones the lowest and the highest of each stretch."""

DOTTED = 40
"""Points up to which each has a dot."""


def escape(text: str) -> str:
    """A text within SVG: no markup, and nothing invisible."""
    return html.escape(shown_text(text))


def lines(
    series: Mapping[str, Sequence[Point]], x_label: str, y_label: str, nothing: str = "nothing was logged"
) -> str:
    """Several named lines over one x axis, named in a legend. What is no number is left out, and so is a series without
    a point; `nothing`: what is said where none has one."""
    finite = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    series = {name: _thinned(points) for name, points in finite.items() if points}
    if not series:
        return _chart(f'<text x="50%" y="60" text-anchor="middle">{escape(nothing)}</text>', y_label, 120)
    xs, ys = ([point[i] for points in series.values() for point in points] for i in (0, 1))
    x_axis, y_axis = axis(xs, whole=all(x == int(x) for x in xs)), axis(ys)
    parts = [*_grid(x_axis, y_axis, PLOT), _labels(x_label, y_label, PLOT)]
    for number, points in enumerate(series.values()):
        kind = f"s{number % COLOURS}"
        places = [(x_axis.share(x), _height(y_axis, y, PLOT)) for x, y in points]
        parts.append(_line(places, kind, PLOT))
        dots = places if len(places) <= DOTTED else places[-1:]
        parts += [f'<circle class="{kind}" cx="{_percent(x)}" cy="{y:.1f}" r="3"/>' for x, y in dots]
    label = f"{y_label}: {', '.join(series)}"
    return _chart("".join(parts), label, PLOT + ABOVE + BELOW, _gutter(y_axis), _legend(series))


def ranges(bars: Sequence[Range], x_label: str) -> str:
    """Named values with their intervals, one below the other, on one axis; a value without one is a hollow point."""
    plot = 38 * len(bars)
    x_axis = axis([number for _, *numbers in bars for number in numbers if number is not None], most=5)
    parts = [*_upright(x_axis, plot), _labels(x_label, "", plot)]
    for number, (name, value, left, right) in enumerate(bars):
        y, kind = ABOVE + 38 * number, f"s{number % COLOURS}"
        x = _percent(x_axis.share(value))
        parts.append(f'<text class="name" x="0" y="{y + 6}">{escape(short(name, 40))}</text>')
        parts.append(f'<text class="name" x="100%" y="{y + 6}" text-anchor="end">{value:.4g}</text>')
        if left is None or right is None:
            kind += " hollow"
        else:
            ends = [_percent(x_axis.share(end)) for end in (left, right)]
            parts.append(f'<line class="{kind}" x1="{ends[0]}" y1="{y + 20}" x2="{ends[1]}" y2="{y + 20}"/>')
        parts.append(f'<circle class="{kind}" cx="{x}" cy="{y + 20}" r="4"/>')
    return _chart("".join(parts), f"{x_label}: {', '.join(name for name, *_ in bars)}", plot + ABOVE + BELOW)


def short(name: str, letters: int = 28) -> str:
    """A name that fits beside its bar; letters of ideographic width count twice."""
    width = 0
    for index, letter in enumerate(name):
        width += 2 if ord(letter) > 0x2E7F else 1
        if width > letters:
            return name[: index - 1] + "…"
    return name


def shares(columns: Mapping[str, Mapping[str, int]], whole: Mapping[str, int]) -> str:
    """How a column's whole is shared out: one line a name, below it one bar a column, under its number and its share; a
    bar's full width is the whole."""
    names = list(dict.fromkeys(name for counts in columns.values() for name in counts))
    step, parts = 1 / len(columns), []
    for number, (column, counts) in enumerate(columns.items()):
        start = number * step
        letters = max(4, int(50 * step))
        parts.append(
            f'<text class="t{number % COLOURS}" x="{_percent(start)}" y="14">{escape(short(column, letters))}</text>'
        )
        for line, name in enumerate(names):
            y, share = 40 + 56 * line, counts.get(name, 0) / whole[column]
            said = f"{counts.get(name, 0)} · {100 * share:.3g} %"
            parts.append(f'<text x="{_percent(start)}" y="{y + 16}">{said}</text>')
            places = [_percent(start + part * 0.94 * step) for part in (1, share)]
            whole_bar, bar = (f'x1="{_percent(start)}" y1="{y + 25}" x2="{end}" y2="{y + 25}"' for end in places)
            parts.append(f'<line class="axis bar" {whole_bar}/><line class="s{number % COLOURS} bar" {bar}/>')
    for line, name in enumerate(names):
        parts.append(f'<text class="name" x="0" y="{40 + 56 * line}">{escape(short(name, 44))}</text>')
    return _chart("".join(parts), ", ".join(columns), 56 * len(names) + 30)


class NamedPoint(NamedTuple):
    """A named point of a plane; x and y are (value,) or (value, low, high)."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


def plane(
    points: Sequence[NamedPoint], x_label: str, y_label: str, height: int = 360, dials: Sequence[Sequence[int]] = ()
) -> str:
    """Named points of a plane with the intervals of both coordinates, joined in their order where they have none.

    `dials`: places of points that are joined by a dashed line, in that order.
    """
    bare, plot = all(len(point.x) == 1 for point in points), height - ABOVE - BELOW
    x_axis, y_axis = axis([v for p in points for v in p.x], most=5), axis([v for p in points for v in p.y])
    places = [(x_axis.share(p.x[0]), _height(y_axis, p.y[0], plot)) for p in points]
    parts = [*_grid(x_axis, y_axis, plot), _labels(x_label, y_label, plot)]
    if bare:
        parts.append(_line(places, "s0", plot))
    parts += [_line([places[i] for i in dial], "dial", plot) for dial in dials]
    heights = _apart([place[1] - 7 for place in places], [place[0] for place in places])
    for number, (point, (x, y), text) in enumerate(zip(points, places, heights, strict=True)):
        kind = 0 if bare else number % COLOURS
        if len(point.x) == 3:
            left, right = (_percent(x_axis.share(end)) for end in point.x[1:])
            parts.append(f'<line class="s{kind} thin" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        if len(point.y) == 3:
            down, up = (_height(y_axis, end, plot) for end in point.y[1:])
            across = _percent(x)
            parts.append(f'<line class="s{kind} thin" x1="{across}" y1="{down:.1f}" x2="{across}" y2="{up:.1f}"/>')
        side = 'text-anchor="end" dx="-7"' if x > 0.5 else 'dx="7"'
        name = escape(short(point.name, 22))
        parts.append(f'<circle class="s{kind}" cx="{_percent(x)}" cy="{y:.1f}" r="4"/>')
        parts.append(f'<text class="t{kind}" x="{_percent(x)}" y="{text:.1f}" {side}>{name}</text>')
    return _chart("".join(parts), f"{y_label} / {x_label}", height, _gutter(y_axis))


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """At most `DRAWN` of the points: the first, the last, and of each stretch between the lowest and the highest."""
    if len(points) <= DRAWN:
        return points
    size = math.ceil((len(points) - 2) / (DRAWN // 2 - 1))
    kept = {0, len(points) - 1}
    for start in range(1, len(points) - 1, size):
        stretch = range(start, min(start + size, len(points) - 1))
        kept |= {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _height(y_axis: Axis, value: float, plot: float) -> float:
    """A value's place from the top, in pixels."""
    return ABOVE + (1 - y_axis.share(value)) * plot


def _line(places: Sequence[tuple[float, float]], kind: str, plot: float) -> str:
    """A line through places (share of the width, pixels from the top), whose width stays when its picture is stretched
    to the column's."""
    path = " ".join(f"{1000 * x:.1f},{y:.1f}" for x, y in places)
    return (
        f'<svg width="100%" height="{plot + ABOVE:g}" viewBox="0 0 1000 {plot + ABOVE:g}" preserveAspectRatio="none">'
        f'<polyline class="{kind}" points="{path}" vector-effect="non-scaling-stroke"/></svg>'
    )


def _grid(x_axis: Axis, y_axis: Axis, plot: float) -> Iterator[str]:
    """Both axes' ticks with their numbers; where a value is 0 the line is a strong one."""
    yield from _upright(x_axis, plot)
    for tick in y_axis.ticks:
        y, strength = _height(y_axis, tick, plot), "zero" if abs(tick) < y_axis.step / 2 else "axis"
        yield f'<line class="{strength}" x1="0" y1="{y:.1f}" x2="100%" y2="{y:.1f}"/>'
        yield f'<text x="-8" y="{y + 4:.1f}" text-anchor="end">{y_axis.text(tick)}</text>'


def _upright(x_axis: Axis, plot: float) -> Iterator[str]:
    for tick in x_axis.ticks:
        share, strength = x_axis.share(tick), "zero" if abs(tick) < x_axis.step / 2 else "axis"
        x, anchor = _percent(share), "start" if share < 0.01 else "end" if share > 0.99 else "middle"
        yield f'<line class="{strength}" x1="{x}" y1="{ABOVE}" x2="{x}" y2="{plot + ABOVE:g}"/>'
        yield f'<text x="{x}" y="{plot + ABOVE + 15:g}" text-anchor="{anchor}">{x_axis.text(tick)}</text>'


def _labels(x_label: str, y_label: str, plot: float) -> str:
    below = f'<text x="50%" y="{plot + ABOVE + 33:g}" text-anchor="middle">{escape(short(x_label, 52))}</text>'
    return below + (f'<text x="0" y="12">{escape(short(y_label, 52))}</text>' if y_label else "")


def _gutter(y_axis: Axis) -> int:
    """Pixels on the left for the numbers of an axis."""
    return 12 + 7 * max(len(y_axis.text(tick)) for tick in y_axis.ticks)


def _apart(heights: Sequence[float], across: Sequence[float]) -> list[float]:
    """The heights of names beside points, moved down until none covers another that is near it across."""
    taken: list[tuple[float, float]] = []
    for x, y in zip(across, heights, strict=True):
        while any(abs(y - other) < 14 and abs(x - there) < 0.5 for there, other in taken):
            y += 4
        taken.append((x, y))
    return [y for _, y in taken]


def _legend(names: Mapping[str, object]) -> str:
    marks = (f'<span class="t{number % COLOURS}">{escape(short(name, 40))}</span>' for number, name in enumerate(names))
    return f'<p class="legend">{" ".join(marks)}</p>'


def _chart(body: str, label: str, height: int, gutter: int = 0, legend: str = "") -> str:
    """`gutter`: pixels on the left that numbers stand in; what lies at an edge is not cut there."""
    wide = f'style="margin-left:{gutter}px;width:calc(100% - {gutter + 8}px)"' if gutter else 'style="width:100%"'
    svg = f'<svg role="img" height="{height}" {wide} aria-label="{escape(short(label, 200))}">{body}</svg>'
    return f'<div class="chart">{legend}{svg}</div>'
