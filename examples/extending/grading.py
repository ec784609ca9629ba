"""A family of your own, with its metric and a task of it, in a module of your own package.

task: my_package.grading:Stars
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED, Dense, Rows, nll
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.padding import pad_tokens
from keeltune.tasks.metrics.metric import Metric, ratio
from keeltune.tasks.task import Task


class GradeError(Metric):
    """How many grades an answer is from the right one, on average. Statistics a row: the distance, and 1."""

    names = ("grade_error",)
    answers = "grade"
    higher_is_better = False
    scale = None

    @property
    def width(self) -> int:
        return 2

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        grades = {name: i for i, name in enumerate(self.settings.labels)}
        apart = [abs(grades[value] - grades[gold]) for value, gold in zip(values, golds, strict=True)]
        return np.array([[float(distance), 1.0] for distance in apart]).reshape(-1, 2)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        return {"grade_error": ratio(sums[..., 0], sums[..., 1])}


class Grading(Task):
    """One grade of an ordered scale for a text: N = B, C = grades. The answer is the median.

    The order is that of the labels: integers by number, else as `data.labels` has it.
    """

    answer = "grade"
    scored_by = (GradeError,)
    auto_models = ("AutoModelForSequenceClassification",)
    separate_head = True

    @classmethod
    def labels_of(cls, row: Row) -> list[str]:
        return [row.fields["label"]] if "label" in row.fields else []

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        inputs = dict(self.processor(row.fields["text"], truncation=True, max_length=self.settings.max_length))
        target = list(self.settings.labels).index(row.fields["label"]) if labelled else IGNORED
        return [Example(inputs, [target], [1.0], row.key, len(inputs["input_ids"]))]

    def pad(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return pad_tokens(self.processor, inputs)

    def rows(self, outputs: Any, batch: Mapping[str, Any], order: Sequence[int] | None = None) -> Rows:
        return Dense(outputs.logits if order is None else outputs.logits[:, list(order)])  # [B, grades]

    def decode(self, rows: Rows, batch: Mapping[str, Any]) -> list[Prediction]:
        below = rows.log_probs(slice(None)).exp().cumsum(-1)
        medians = (below < 0.5).sum(-1).clamp_max(below.shape[-1] - 1).tolist()
        losses = nll(rows, batch["targets"], batch["weights"]).tolist()
        counts = (batch["targets"] != IGNORED).float().tolist()
        names = list(self.settings.labels)
        return [Prediction(names[i], None, loss, n) for i, loss, n in zip(medians, losses, counts, strict=True)]

    def gold(self, row: Row) -> Any:
        return row.fields["label"]


class Stars(Grading):
    """The stars of a review. Metrics: the distance from the right grade."""

    columns = (Column("text", "text"), Column("label", "label", label=True))
