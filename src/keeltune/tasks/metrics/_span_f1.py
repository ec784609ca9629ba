"""F1 of labelled spans, whatever a span is: what the metrics of entities and of arguments share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from keeltune.tasks.metrics.metric import Metric, ratio

NEVER_LEARNT = "(never learnt)"


class SpanF1(Metric):
    """F1, precision and recall of spans over all kinds, 0..1, counted together (micro).

    A span is right if its kind and all of its words are. Statistics a row: spans right, predicted and gold, of each
    kind in turn; those of kinds never learnt together.
    """

    names = ("f1", "precision", "recall")
    answers = "tags"

    @abstractmethod
    def kinds_of(self, labels: Sequence[str]) -> Collection[str]:
        """The kinds that the labels have."""

    @abstractmethod
    def spans(self, tags: Sequence[str]) -> set[tuple[str, Any]]:
        """(kind, place) of each span."""

    @cached_property
    def kinds(self) -> list[str]:
        """The kinds that were learnt, in the order of the statistics."""
        return sorted(self.kinds_of(self.settings.labels))

    @property
    def width(self) -> int:
        return 3 * (len(self.kinds) + 1)

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        column = {kind: i for i, kind in enumerate(self.kinds)}
        table = np.zeros((len(golds), 3, len(self.kinds) + 1))
        for row, (value, gold) in enumerate(zip(values, golds, strict=True)):
            predicted, right = self.spans(value), self.spans(gold)
            for counted, members in enumerate((predicted & right, predicted, right)):
                for kind, _ in members:
                    table[row, counted, column.get(kind, len(self.kinds))] += 1
        return table.reshape(len(golds), self.width)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        right, predicted, gold = (part.sum(-1) for part in self._parts(sums))
        return {"f1": ratio(2 * right, predicted + gold), "precision": ratio(right, predicted),
                "recall": ratio(right, gold)}  # fmt: skip

    def details(self, sums: np.ndarray) -> dict[str, Any]:
        right, predicted, gold = self._parts(sums)
        f1, precision, recall = ratio(2 * right, predicted + gold), ratio(right, predicted), ratio(right, gold)
        table = {
            kind: {"precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]),
                   "rows": int(gold[i])}
            for i, kind in enumerate([*self.kinds, NEVER_LEARNT])
        }  # fmt: skip
        if not gold[-1]:
            del table[NEVER_LEARNT]
        return {"by_label": table}

    def row_score(self, value: Any, gold: Any) -> float:
        """F1 of the row's spans, 1 where there are none and none is predicted."""
        predicted, right = self.spans(value), self.spans(gold)
        both = len(predicted) + len(right)
        return 2 * len(predicted & right) / both if both else 1.0

    def _parts(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Spans right, predicted and gold: [..., kinds + 1] each."""
        table = np.asarray(sums, dtype=np.float64).reshape(*np.shape(sums)[:-1], 3, len(self.kinds) + 1)
        return table[..., 0, :], table[..., 1, :], table[..., 2, :]
