"""The contract of a metric: statistics per row whose sum gives the scores, so that a bootstrap is one matrix product.

    values, golds -> statistics [rows, K] -> sums [..., K] -> {name: scores [...]}

A new file in this folder is a new metric: a recipe names it under `evaluation.metrics`, as `my-metric` for
`my_metric.py`, or as `my_package.my_module:Name` from outside, which may be a function too (`_function.py`). A complete
one, the share of answers of the right length:

    class Length(Metric):
        names = ("length",)
        answers = "text"

        @property
        def width(self) -> int:
            return 2

        def statistics(self, values, golds):
            return np.array([[len(v) == len(g), 1.0] for v, g in zip(values, golds, strict=True)], float).reshape(-1, 2)

        def scores(self, sums):
            return {"length": ratio(sums[..., 0], sums[..., 1])}

Shapes: K statistics a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from keeltune.tasks.common.language import Language, detect, sample
from keeltune.tasks.common.settings import Settings


class Metric(ABC):
    """One or several scores that are made of the same statistics of each row."""

    names: ClassVar[tuple[str, ...]]
    """The names of its scores, the most telling first."""

    answers: ClassVar[str]
    """What it scores: "label" (or a list of labels), "tags", "text", or what a task of another package answers; or the
    "probabilities" of labels, {label: probability} of each row."""

    higher_is_better: ClassVar[bool] = True
    """Whether the larger of two scores is the better one."""

    scale: ClassVar[float | None] = 1.0
    """A perfect score (of an error rate: the whole error); None where there is no bound."""

    scores_single_rows: ClassVar[bool] = True
    """Whether one row alone has a telling score; CIDEr needs the other rows, and one sentence's BLEU is mostly 0."""

    reads_language: ClassVar[bool] = False
    """Whether it scores an answer by the language of the data set (`language`)."""

    requires: ClassVar[str | None] = None
    """A module of one of keeltune's extras that computes it."""

    library: ClassVar[str] = "keeltune"
    """What computes it, or what it was checked against."""

    def __init__(self, settings: Settings | None = None):
        self.settings = settings or Settings()

    @property
    @abstractmethod
    def width(self) -> int:
        """K: how many statistics a row has."""

    @abstractmethod
    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        """Statistics of each row [rows, K], of its answer and of the right one (a task's `gold`)."""

    @abstractmethod
    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Summed statistics [..., K] as scores [...], each in its unit; the keys are `names`."""

    @property
    def signature(self) -> str:
        """How a score came about, as sacrebleu writes it: what one must know to compute it again."""
        return self.library

    def misfits(self, texts: Sequence[str]) -> Iterable[str]:
        """Why it does not fit a data set, of a sample of its right answers; in the words of a warning."""
        return ()

    def language(self, golds: Sequence[Any]) -> Language:
        """The language of the data set: the run's, else that of these right answers."""
        if self.settings.language is not None:
            return self.settings.language
        return detect(sample([text for gold in golds for text in right_answers(gold)]))

    def details(self, sums: np.ndarray) -> dict[str, Any]:
        """What is worth more than a number: `{"by_label": {...}}`, from summed statistics [K]."""
        return {}

    def row_score(self, value: Any, gold: Any) -> float:
        """One row's own score; more is better."""
        score = float(self.scores(self.statistics([value], [gold])[0])[self.names[0]])
        return score if self.higher_is_better else max(0.0, 1.0 - score)


def right_answers(gold: Any) -> list[str]:
    """The right texts of a row, of which a task has one or several."""
    return [gold] if isinstance(gold, str) else list(gold)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where there is nothing to divide by (scikit-learn's zero_division=0)."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=np.asarray(whole) > 0)
