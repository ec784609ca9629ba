"""Charts as inline SVG: no script, no font and no address from outside, readable in light and dark."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from keeltune.utils.sanitization import shown_text

Point = tuple[float, float]

Range = tuple[str, float, float | None, float | None]
"""A name, its value, and the ends of its interval; None where it has none."""


def escape(text: str) -> str:
    """A text within SVG: no markup, and nothing invisible."""
    return html.escape(shown_text(text))


WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 240, 66, 34, 16, 120


def lines(
    series: Mapping[str, Sequence[Point]], x_label: str, y_label: str, nothing: str = "nothing was logged"
) -> str:
    """Several named lines over one x axis, each named at its end. Series without a point are left out; `nothing`: what
    is said where none has one."""
    series = {name: points for name, points in series.items() if points}
    if not series:
        return _svg(f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">{escape(nothing)}</text>', y_label)
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_of, y_of = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT), _scale(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    parts = [_axes(x_label, y_label)]
    for low_high, anchor in ((min(xs), "start"), (max(xs), "end")):
        parts.append(f'<text x="{x_of(low_high):.1f}" y="{HEIGHT - 18}" text-anchor="{anchor}">{low_high:g}</text>')
    for value in (min(ys), max(ys)):
        parts.append(f'<text x="{LEFT - 6}" y="{y_of(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    ends = _apart([y_of(points[-1][1]) for points in series.values()], TOP, HEIGHT - BOTTOM)
    for number, (name, points) in enumerate(series.items()):
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        x, y = points[-1]
        mark = f'<circle class="s{number % 4}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3"/>'
        parts.append(f'<polyline class="s{number % 4}" points="{path}"/>{mark}')
        parts.append(
            f'<text class="t{number % 4}" x="{WIDTH - RIGHT + 8}" y="{ends[number] + 4:.1f}">{escape(name)}</text>'
        )
    return _svg("".join(parts), y_label)


def ranges(bars: Sequence[Range], x_label: str) -> str:
    """Named values with their intervals, one a line, on one axis; a value without one is a hollow point."""
    height, axis = 30 * len(bars) + 62, 30 * len(bars) + 14
    known = [end for _, *ends in bars for end in ends if end is not None]
    low, high = min(known), max(known)
    low, high = (low, high) if high > low else _room([low, high])
    x_of = _scale(low, high, 200, WIDTH - 70)
    parts = [f'<line class="axis" x1="200" y1="{axis}" x2="{WIDTH - 70}" y2="{axis}"/>']
    for value, anchor in ((low, "start"), (high, "end")):
        parts.append(f'<text x="{x_of(value):.1f}" y="{axis + 16}" text-anchor="{anchor}">{value:.3g}</text>')
    label = escape(short(x_label, 80))  # below the numbers, which a long one would cover
    parts.append(f'<text x="{(WIDTH + 130) / 2}" y="{axis + 34}" text-anchor="middle">{label}</text>')
    for number, (name, value, left, right) in enumerate(bars):
        y = 20 + 30 * number
        parts.append(f'<text x="190" y="{y + 4}" text-anchor="end">{escape(short(name))}</text>')
        kind = f"s{number % 4}"
        if left is None or right is None:
            kind += " hollow"
        else:
            parts.append(f'<line class="{kind}" x1="{x_of(left):.1f}" y1="{y}" x2="{x_of(right):.1f}" y2="{y}"/>')
        parts.append(f'<circle class="{kind}" cx="{x_of(value):.1f}" cy="{y}" r="4"/>')
        parts.append(f'<text x="{WIDTH - 62}" y="{y + 4}">{value:.4g}</text>')
    return _svg("".join(parts), x_label, height)


def short(name: str, letters: int = 28) -> str:
    """A name that fits beside its bar; letters of ideographic width count twice."""
    width = 0
    for index, letter in enumerate(name):
        width += 2 if ord(letter) > 0x2E7F else 1
        if width > letters:
            return name[: index - 1] + "…"
    return name


def shares(columns: Mapping[str, Mapping[str, int]], whole: Mapping[str, int]) -> str:
    """How a column's whole is shared out: one line a name, in it one bar a column, beside its number and its share."""
    names = list(dict.fromkeys(name for counts in columns.values() for name in counts))
    left, step = 150, (WIDTH - 150) / len(columns)
    height = 34 * len(names) + 24
    parts = []
    for number, (column, counts) in enumerate(columns.items()):
        x = left + number * step
        parts.append(f'<text class="t{number % 4}" x="{x:.1f}" y="14">{escape(short(column, int(step / 7)))}</text>')
        for line, name in enumerate(names):
            y, share = 24 + 34 * line, counts.get(name, 0) / whole[column]
            parts.append(f'<text x="{x:.1f}" y="{y + 12}">{counts.get(name, 0)} · {100 * share:.3g} %</text>')
            end = x + share * (step - 12)
            parts.append(f'<line class="s{number % 4} bar" x1="{x:.1f}" y1="{y + 21}" x2="{end:.1f}" y2="{y + 21}"/>')
    for line, name in enumerate(names):
        parts.append(f'<text x="{left - 10}" y="{36 + 34 * line}" text-anchor="end">{escape(short(name, 20))}</text>')
    return _svg("".join(parts), ", ".join(columns), height)


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
    bare = all(len(point.x) == 1 for point in points)
    x_of = _scale(*_room([v for p in points for v in p.x]), LEFT, WIDTH - RIGHT)
    y_of = _scale(*_room([v for p in points for v in p.y]), height - BOTTOM, TOP)
    parts = [_axes(x_label, y_label, height)]
    for value, anchor in ((x_of.low, "start"), (x_of.high, "end")):
        parts.append(f'<text x="{x_of(value):.1f}" y="{height - 18}" text-anchor="{anchor}">{value:.3g}</text>')
    for value in (y_of.low, y_of.high):
        parts.append(f'<text x="{LEFT - 6}" y="{y_of(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    if bare:
        path = " ".join(f"{x_of(p.x[0]):.1f},{y_of(p.y[0]):.1f}" for p in points)
        parts.append(f'<polyline class="s0" points="{path}"/>')
    for dial in dials:
        path = " ".join(f"{x_of(points[i].x[0]):.1f},{y_of(points[i].y[0]):.1f}" for i in dial)
        parts.append(f'<polyline class="axis" stroke-dasharray="5 4" points="{path}"/>')
    taken: list[tuple[float, float]] = []
    for number, point in enumerate(points):
        kind = 0 if bare else number % 4
        x, y = x_of(point.x[0]), y_of(point.y[0])
        for values, start, end in ((point.x, (x_of, None), y), (point.y, (None, y_of), x)):
            if len(values) == 3 and start[0] is not None:
                parts.append(_bar(kind, start[0](values[1]), end, start[0](values[2]), end))
            elif len(values) == 3 and start[1] is not None:
                parts.append(_bar(kind, end, start[1](values[1]), end, start[1](values[2])))
        down = y - 6
        while any(abs(down - other) < 13 and abs(x - across) < 110 for across, other in taken):
            down += 4
        taken.append((x, down))
        parts.append(f'<circle class="s{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(f'<text class="t{kind}" x="{x + 7:.1f}" y="{down:.1f}">{escape(point.name)}</text>')
    return _svg("".join(parts), f"{y_label} / {x_label}", height)


def _bar(kind: int, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="s{kind} thin" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _room(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values with a little room at both ends."""
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.01
    return low - room, high + room


def _scale(low: float, high: float, start: float, end: float) -> _Scale:
    return _Scale(low, high if high > low else low + 1e-9, start, end)


class _Scale:
    """A value's place between `start` and `end`."""

    def __init__(self, low: float, high: float, start: float, end: float):
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _apart(heights: Sequence[float], top: float, bottom: float, gap: float = 14.0) -> list[float]:
    """The labels' heights, moved until none covers another and all lie within the picture, in the same order."""
    gap = min(gap, (bottom - top) / max(1, len(heights) - 1))
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    apart, least = list(heights), top
    for i in order:
        apart[i] = least = max(least, heights[i])
        least += gap
    most = bottom
    for i in reversed(order):
        apart[i] = most = min(most, apart[i])
        most -= gap
    return apart


def _axes(x_label: str, y_label: str, height: int = HEIGHT) -> str:
    bottom = height - BOTTOM
    return (
        f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}"/>'
        f'<line class="axis" x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{bottom}"/>'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="{LEFT}" y="{TOP - 4}">{escape(y_label)}</text>'
    )


def _svg(body: str, label: str, height: int = HEIGHT) -> str:
    svg = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'
    return f'<div class="chart">{svg}</div>'
