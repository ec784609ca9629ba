"""Whether a training ended before the model had learnt what it was learning: the eleventh sign.

Three things tell, each from numbers that a run has anyway:

    left        the last cross-entropy as a share of the labels' entropy H = −Σ f log f: near 1, little was learnt
    late        the share of the whole fall of the loss that came in the second half of the training, where time is
                counted in learning rate: t = Σ η of the steps so far. A schedule that ends at 0 flattens every loss; by
                this clock one that falls as fast at the end as at the start has ½, one that has settled nearly 0
    doubt       accuracy − mean confidence: answers that are right far more often than the model says

A slope is taken by least squares over the second half's log entries and counts where it is more than `SURELY` of its
standard errors below 0, so that noise is none. Where text is written there is no entropy of labels: `late` decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keeltune.evaluation.overfitting import LEARNT, Light, Signal, traffic_light
from keeltune.utils.messages import Message, joined

NAME = "undertrained"

DOUBT = (0.15, 0.30)
"""Accuracy − mean confidence."""

LATE = (0.25, 0.40)
"""The share of the fall that came in the second half, by learning rate."""

LEFT = (0.5, 0.8)
"""The share of the labels' entropy that is left; below the first nothing else is asked."""

FEW = 100
"""Steps below which a new head with much left is not trained, whatever the slope says."""

SURELY = 2.0
"""Standard errors by which a slope lies below 0."""

FELL = 0.05
"""The share of the first loss that must have gone for its course to say anything."""

SETTLED = 0.1
"""The share of the first loss from which on a fall matters no more."""


@dataclass(frozen=True)
class Course:
    """How a training's cross-entropy went: its first and last values, and the share of the fall that came late."""

    first: float
    last: float
    late: float


def course(log: Sequence[Mapping[str, Any]]) -> Course | None:
    """From a training's log entries; None of fewer than four."""
    entries = [e for e in log if "cross_entropy" in e and "learning_rate" in e and e.get("step")]
    if len(entries) < 4:
        return None
    steps = np.array([0, *(entry["step"] for entry in entries)], dtype=float)
    rates = np.array([entry["learning_rate"] for entry in entries])
    values = np.array([entry["cross_entropy"] for entry in entries])
    area = np.diff(steps) * np.maximum(rates, 1e-12)
    ends = np.cumsum(area)
    middles, whole = ends - area / 2, ends[-1]
    second = middles > whole / 2
    if second.sum() < 3:
        second = np.arange(len(values)) >= len(values) - 3
    slope, error, end = _line(middles[second] / whole, values[second], np.diff(steps)[second])
    fell = values[0] - end
    falls = fell >= FELL * values[0] and slope < -SURELY * error and end > SETTLED * values[0]
    return Course(float(values[0]), float(end), float(min(1.0, -slope / 2 / fell)) if falls else 0.0)


def _line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """The slope of the line of least squares, its standard error, and its value at x = 1."""
    share = weights / weights.sum()
    mean_x, mean_y = float(share @ x), float(share @ y)
    spread = float(share @ (x - mean_x) ** 2)
    slope = float(share @ ((x - mean_x) * (y - mean_y))) / spread if spread > 0 else 0.0
    off = y - mean_y - slope * (x - mean_x)
    error = math.sqrt(float(share @ off**2) / spread / max(1, len(x) - 2)) if spread > 0 else math.inf
    return slope, error, mean_y + slope * (1 - mean_x)


def doubt(lines: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """(accuracy, mean confidence) of answers of one choice a row; None where there are few."""
    single = [line for line in lines if "probabilities" in line and isinstance(line["prediction"], str)]
    if len(single) < 10:
        return None
    right = sum(line["score"] >= 1 for line in single) / len(single)
    return right, sum(max(line["probabilities"].values()) for line in single) / len(single)


def undertrained(
    went: Course | None,
    *,
    entropy: float | None,
    answers: tuple[float, float] | None,
    steps: int,
    new_head: bool,
    best_is_last: bool = True,
) -> Signal | None:
    """The sign of a run.

    entropy        of the labels' frequencies, in nats; None where the loss is no choice among labels
    answers        `doubt`
    steps          that were trained; `new_head`: whether its head began with random weights
    best_is_last   whether the last validation loss is about the lowest: a loss that has begun to rise is no lack
    """
    if went is None and answers is None:
        return None
    left = went.last / entropy if went and entropy else None
    late = went.late if went and best_is_last else 0.0
    gap = answers[0] - answers[1] if answers else 0.0
    lights: list[Light] = ["green"]
    if left is None or left > LEARNT:
        lights.append(traffic_light(gap, DOUBT))
    if left is None:
        lights.append(traffic_light(late, LATE))
    elif left > LEFT[0]:
        falling, few = traffic_light(late, LATE), new_head and steps < FEW
        lacks = falling != "green" or few
        lights.append("red" if left > LEFT[1] and (falling == "red" or few) else "amber" if lacks else "green")
    light = max(lights, key=("green", "amber", "red").index)
    value = max(gap, late)
    return Signal(NAME, light, value, _said(went, left, late, answers, steps, light))


def _said(
    went: Course | None, left: float | None, late: float, answers: tuple[float, float] | None, steps: int, light: Light
) -> Message:
    parts = []
    if went is not None:
        template = "after {steps} steps the loss on training rows went from {first:.3g} to {last:.3g} nats"
        parts.append(Message(template, steps=steps, first=went.first, last=went.last))
    if left is not None:
        parts.append(Message("{left:.0%} of what the labels' frequencies alone give", left=left))
    if late > 0:
        parts.append(Message("{late:.0%} of the fall came in the second half of the learning", late=late))
    if answers is not None:
        template = "{right:.0%} of the answers are right where the model gives them {sure:.0%}"
        parts.append(Message(template, right=answers[0], sure=answers[1]))
    said = joined(parts, "; ")
    if light == "green":
        return said
    advice = Message("train longer (training.epochs), or with a higher training.learning_rate")
    return joined([said, advice], ": ")
