from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from keeltune.tasks.metrics._span_f1 import NEVER_LEARNT
from keeltune.tasks.metrics.classification import Classification
from keeltune.tasks.metrics.metric import Metric


class TagAccuracy(Metric):
    """Accuracy and macro-F1 over words, 0..1: each word's tag is a choice of its own (parts of speech).

    Statistics a row: those of `Classification`, of its words together; a tag never learnt is one label more.
    """

    names = ("accuracy", "macro_f1")
    answers = "tags"
    library = "checked against scikit-learn"

    @cached_property
    def of_words(self) -> Classification:
        return Classification(replace(self.settings, labels=[*self.settings.labels, NEVER_LEARNT], multi_label=False))

    @property
    def width(self) -> int:
        return self.of_words.width

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        words = [self.of_words.statistics(self._known(v), self._known(g)) for v, g in zip(values, golds, strict=True)]
        return np.array([row.sum(0) for row in words], dtype=np.float64).reshape(len(golds), self.width)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        values = self.of_words.scores(sums)
        return {name: values[name] for name in self.names}

    def details(self, sums: np.ndarray) -> dict[str, Any]:
        table: dict[str, Any] = self.of_words.details(sums)["by_label"]
        if not table[NEVER_LEARNT]["rows"]:
            del table[NEVER_LEARNT]
        return {"by_label": table}

    def _known(self, tags: Sequence[str]) -> list[str]:
        return [tag if tag in self.of_words.index else NEVER_LEARNT for tag in tags]
