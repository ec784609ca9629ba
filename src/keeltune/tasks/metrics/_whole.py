"""Scores that are no mean over rows, such as an area under a curve: of drawn rows they are computed anew.

The contract of a metric asks for statistics whose sum gives the score. Here they say which rows were drawn, and how
often: a number that stands for this table's rows, one, and the row's place as a digit of one of the columns behind
them. A sum over any of the rows, drawn any number of times, so holds all that the score is made of, and whatever sums
tables (slices, seeds, comparisons) need not know.
"""

from __future__ import annotations

import itertools
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from keeltune.tasks.metrics.metric import Metric
from keeltune.utils.errors import Problem, UserError

DIGITS, BASE = 10, 32
"""Rows that share a column, and how often a row can be drawn: 32^10 = 2^50 is exact in float64. In a draw of N of N
rows a row is drawn 32 times with a probability below 10^-35, and never where N < 32."""

LIMIT = 10_000
"""Rows at most: a table of as many takes 80 MB."""

COLUMNS = LIMIT // DIGITS

SECONDS, LEAST = 5.0, 50
"""How long the draws of one bootstrap may take, and how many are computed all the same; the others are NaN, which
intervals leave out."""

_rows: dict[int, tuple[list[Any], list[Any]]] = {}

_numbers = itertools.count(1)


class Whole(Metric):
    """A metric of all rows at once. Statistics a row: the table's number, 1, and the row's digit."""

    names: ClassVar[tuple[str, ...]] = ()
    scale = None
    scores_single_rows = False

    @abstractmethod
    def whole(self, values: Sequence[Any], golds: Sequence[Any]) -> Mapping[str, float]:
        """The scores of these rows, of which one may be there several times; the keys are `names`."""

    @property
    def width(self) -> int:
        return 2 + COLUMNS

    def refuse_too_many(self, rows: int) -> None:
        """UserError for more than `LIMIT` rows."""
        if rows > LIMIT:
            expected = f"at most {LIMIT} rows: the score is no mean over rows, and is computed anew for each draw"
            fix = "score fewer rows, or return a list of one number a row"
            raise UserError(Problem(self.signature, "evaluation.metrics", f"{rows} rows", expected, fix))

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        """Raises: UserError for more than `LIMIT` rows."""
        count = len(golds)
        self.refuse_too_many(count)
        number = next(_numbers)
        _rows[number] = (list(values), list(golds))
        table = np.zeros((count, self.width))
        table[:, 0], table[:, 1] = number, 1.0
        place = np.arange(count)
        table[place, 2 + place // DIGITS] = float(BASE) ** (place % DIGITS)
        return table

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """NaN for each row alone, for a draw of which the score is not defined, and for draws that time forbids."""
        sums = np.asarray(sums, dtype=np.float64)
        draws = sums.reshape(-1, sums.shape[-1])
        found = np.full((len(draws), len(self.names)), np.nan)
        if sums.ndim == 1:
            found[0] = self._score(draws[0])
        elif not (draws[:, 1] == 1).all():
            started = time.monotonic()
            for index, draw in enumerate(draws):
                if index >= LEAST and time.monotonic() - started > SECONDS:
                    break
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of a draw without one of the labels
                    try:
                        found[index] = self._score(draw)
                    except Exception:  # what is not defined for some rows raises in its own way
                        continue
        return {name: found[:, i].reshape(sums.shape[:-1]) for i, name in enumerate(self.names)}

    def _score(self, sums: np.ndarray) -> list[float]:
        values, golds = _rows[round(sums[0] / sums[1])] if sums[1] else ([], [])
        packed = np.rint(sums[2:]).astype(np.int64)
        counts = (packed[:, None] // BASE ** np.arange(DIGITS)) % BASE
        drawn = np.repeat(np.arange(LIMIT), counts.reshape(-1))
        scores = self.whole([values[i] for i in drawn], [golds[i] for i in drawn])
        return [float(scores[name]) for name in self.names]


@contextmanager
def forgotten() -> Iterator[None]:
    """Within: rows whose tables are not kept are not kept either."""
    before = next(_numbers)
    try:
        yield
    finally:
        for number in [number for number in _rows if number > before]:
            del _rows[number]
