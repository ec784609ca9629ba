"""Axes of charts: round numbers that span the values, how they are written, and where a value lies between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST = 6
"""Ticks of an axis."""

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Round steps within one power of ten."""


@dataclass(frozen=True)
class Axis:
    """From the first of its ticks to the last, which lie `step` apart and hold all of the values between them."""

    ticks: tuple[float, ...]
    step: float

    @property
    def low(self) -> float:
        return self.ticks[0]

    @property
    def high(self) -> float:
        return self.ticks[-1]

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the axis' beginning, 1 at its end."""
        return (value - self.low) / (self.high - self.low)

    def text(self, tick: float) -> str:
        """A tick as it is written: with as many decimals as the step needs, the same for all; 0 without a sign."""
        largest = max(abs(self.low), abs(self.high))
        if largest >= 1e5 or self.step < 1e-4:
            return f"{tick:.4g}"
        decimals = next(n for n in range(7) if math.isclose(round(self.step, n), self.step, rel_tol=1e-6))
        return f"{0.0 if abs(tick) < self.step / 2 else tick:.{decimals}f}".replace("-", "−")


def axis(values: Sequence[float], *, most: int = MOST, whole: bool = False) -> Axis:
    """Round ticks from at most the least of the values to at least the largest, `most` of them or fewer.

    The step is the smallest of 1, 2, 2.5 and 5 times a power of ten that takes no more ticks. `whole`: values are
    counts, and a step is 1 at least.
    """
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = 0.05 * abs(low) or 0.5
        low, high = (low - room, high + room) if not whole else (low - 1, high + 1)
    power = math.floor(math.log10((high - low) / most))
    for step in (base * 10.0**exponent for exponent in (power, power + 1) for base in STEPS):
        if whole and (step < 1 or step != int(step)):
            continue
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first + 1 <= most:
            break
    return Axis(tuple(number * step for number in range(first, last + 1)), step)
