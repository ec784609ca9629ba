"""A falling power law through measured errors, and how sure it is of what comes next.

    y_i = f(n_i) + t_i + u_i,     f(n) = a + b · (n + d)^(−c),     a, b, c, d ≥ 0

y_i is the error of a training on n_i rows. t is what its test rows make of it, with the standard deviation that the
bootstrap found, and correlated by ρ between trainings, which are scored on the same rows. u is what another draw of
rows or another order would have changed, with the standard deviation κ · w: w = y (1 − y / scale) of a bounded score,
y of an unbounded one, so that κ is the standard deviation of its log-odds, or of its logarithm.

d is what the model knew before, in rows: with d = 0 the curve is straight on two logarithmic axes, but for its
asymptote, and with d > 0 it is flat first and steepens, as those of few rows do (Hernandez et al. 2021,
https://arxiv.org/abs/2102.01293). f falls or is level, whatever the points do: more rows of the same kind do not make
a model worse, and points that rise are levelled, as an isotonic fit levels them. Four points hardly tell a from c, and
κ not at all where no size has two of them. So no single curve is taken: all are, each weighted by how well it explains
the points (their likelihood, f(N) integrated out in closed form, N the most rows) and by how common it is ahead of any
point:

    a / f(N)        uniform on [0, 1]
    c N / (N + d)   uniform on (0, 1.5]: the slope that the part above a has at N, on logarithmic axes
    d / N           0 in 60 %, ¼ in 20 %, 1 in 20 %
    log κ           normal around log 0.1 with a standard deviation of 1

Where the points say little the band is as wide as these make it: that is what a fit that is not identified looks like.
Such curves foretell the next doubling well and ten times as many rows badly (Hestness et al. 2017,
https://arxiv.org/abs/1712.00409; Viering and Loog 2022, https://arxiv.org/abs/2103.10948).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

ASYMPTOTES = np.linspace(0.0, 1.0, 17)
"""a / f(N)."""

SLOPES = np.linspace(1.5 / 24, 1.5, 24)
"""c N / (N + d)."""

SHIFTS, COMMON = np.array([0.0, 0.25, 1.0]), np.array([0.6, 0.2, 0.2])
"""d / N, and how common it is."""

USUAL, SPREAD = 0.1, 1.0
"""Of κ: its median ahead of any point, and the standard deviation of its logarithm."""

SCATTERS = USUAL * np.exp(SPREAD * np.linspace(-2.5, 2.0, 12))
"""The κ that are tried."""

DRAWS = 4000

LEAST = 0.02
"""How far w of a bounded score may fall, as a share of y: a score of almost nothing scatters too."""


@dataclass(frozen=True)
class Points:
    """What was measured, K trainings.

    rows [K], errors [K]; `test_sd` [K] and `correlation`: of what the test rows make of the errors, the latter between
    two trainings; `scale`: the largest error of a bounded score, None of an unbounded one.
    """

    rows: np.ndarray
    errors: np.ndarray
    test_sd: np.ndarray
    correlation: float
    scale: float | None

    @property
    def most(self) -> float:
        return float(self.rows.max())

    def spread(self, errors: np.ndarray) -> np.ndarray:
        """w of these errors."""
        bounded = 1.0 if self.scale is None else np.clip(1 - errors / self.scale, LEAST, 1)
        return np.asarray(errors * bounded)


@dataclass(frozen=True)
class Shapes:
    """Curves but for their height, f(n) / f(N): a / f(N), c and d / N, [M] each."""

    asymptote: np.ndarray
    exponent: np.ndarray
    shift: np.ndarray

    def at(self, share: float) -> np.ndarray:
        """At `share` times N, [M]."""
        falling = ((share + self.shift) / (1 + self.shift)) ** -self.exponent
        return np.asarray(self.asymptote + (1 - self.asymptote) * falling)

    def take(self, indices: np.ndarray) -> Shapes:
        return Shapes(self.asymptote[indices], self.exponent[indices], self.shift[indices])

    def constants(self, index: int, level: float, most: float) -> dict[str, float]:
        """a, b, c and d of one of them with this f(N)."""
        a, c, d = float(self.asymptote[index]), float(self.exponent[index]), float(self.shift[index]) * most
        return {"a": level * a, "b": level * (1 - a) * (most + d) ** c, "c": c, "d": d}


@dataclass(frozen=True)
class Draw:
    """Draws of curves and κ, [DRAWS] each, as often as they are probable: f(n) = level · shapes(n / most)."""

    most: float
    level: np.ndarray
    shapes: Shapes
    scatter: np.ndarray
    """Which of `SCATTERS`."""
    likeliest: dict[str, float]
    """{"a", "b", "c", "d"} of the most probable curve."""

    def at(self, rows: float) -> np.ndarray:
        """f, [DRAWS]."""
        return np.asarray(self.level * self.shapes.at(rows / self.most))


@dataclass(frozen=True)
class Forecast:
    """Draws of the error of a training on so many rows, [DRAWS]: `true` on all test rows there could be, `measured` on
    the points' own."""

    true: np.ndarray
    measured: np.ndarray


class Fit:
    """The curves that points leave possible.

    The sizes of t and u depend on the curve: a point that was lucky shows too small ones, and would then count for too
    much. They are taken at the points first, and then, twice, at the middle of the curves found.
    """

    def __init__(self, points: Points):
        self.points = points
        self._last = int(np.argmax(points.rows))
        self._errors, self._test_sd = points.errors, points.test_sd
        for _ in range(2):
            drawn = self._drawn()
            self._errors = np.array([np.median(drawn.at(rows)) for rows in points.rows])
            ratio = points.spread(self._floored(self._errors)) / points.spread(self._floored(points.errors))
            self._test_sd = points.test_sd * np.sqrt(ratio)
        self.drawn = self._drawn()

    def _floored(self, errors: np.ndarray) -> np.ndarray:
        """No error is surely smaller than its test rows can tell."""
        return np.maximum(errors, self.points.test_sd)

    def _covariances(self) -> np.ndarray:
        """Of y − f at each κ, [κ, K, K]."""
        rho, sd = self.points.correlation, self._test_sd
        test = sd[:, None] * (rho + (1 - rho) * np.eye(len(sd))) * sd[None]
        own = self.points.spread(self._floored(self._errors))
        return np.asarray(test + np.stack([np.diag((scatter * own) ** 2) for scatter in SCATTERS]))

    def _drawn(self) -> Draw:
        points, random = self.points, np.random.default_rng(0)
        shares, slopes, shifts = (grid.ravel() for grid in np.meshgrid(ASYMPTOTES, SLOPES, np.arange(len(SHIFTS))))
        shapes = Shapes(shares, slopes * (1 + SHIFTS[shifts]), SHIFTS[shifts])
        covariances = self._covariances()
        inverses = np.linalg.inv(covariances)
        relative = np.stack([shapes.at(rows / points.most) for rows in points.rows], axis=1)  # [M, K]
        along = relative @ inverses  # [κ, M, K]
        precision = (along * relative).sum(-1)
        level, sd = along @ points.errors / precision, precision**-0.5
        off = np.einsum("i,kij,j->k", points.errors, inverses, points.errors) + np.linalg.slogdet(covariances)[1]
        log_weights = -0.5 * (off[:, None] - precision * level**2 + np.log(precision)) + log_ndtr(level / sd)
        log_weights += np.log(COMMON)[shifts] - 0.5 * (np.log(SCATTERS / USUAL) / SPREAD)[:, None] ** 2
        weights = np.exp(log_weights - log_weights.max()).ravel()
        drawn = random.choice(len(weights), DRAWS, p=weights / weights.sum())
        levels = np.abs(level.ravel()[drawn] + sd.ravel()[drawn] * random.standard_normal(DRAWS))
        scatter, shape = np.divmod(drawn, len(shares))
        best = int(np.argmax(weights))
        likeliest = shapes.constants(best % len(shares), abs(float(level.ravel()[best])), points.most)
        return Draw(points.most, levels, shapes.take(shape), scatter, likeliest)

    def at(self, rows: float) -> Forecast:
        """What a training on `rows` rows would score.

        On the same test rows a part of t is known: its conditional normal distribution, given what the points are off
        each curve.
        """
        points, drawn, random = self.points, self.drawn, np.random.default_rng(1)
        height = drawn.at(rows)
        last = self._floored(self._errors)[self._last]
        now = max(float(np.median(height)), float(points.test_sd[self._last]))
        spread, last = points.spread(np.array([now, last]))
        own = SCATTERS[drawn.scatter] * spread * random.standard_normal(DRAWS)
        sd = self._test_sd[self._last] * np.sqrt(spread / last)
        shared = points.correlation * self._test_sd * sd
        gains = np.linalg.solve(self._covariances(), np.tile(shared[:, None], (len(SCATTERS), 1, 1)))[..., 0]  # [κ, K]
        off = points.errors[None] - np.stack([drawn.at(n) for n in points.rows], axis=1)
        known = (off * gains[drawn.scatter]).sum(1)
        left = np.sqrt(np.clip(sd**2 - gains @ shared, 0, None))[drawn.scatter]
        return Forecast(height + own, height + own + known + left * random.standard_normal(DRAWS))
