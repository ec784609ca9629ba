"""One choice, or several yes/no choices, for a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED, Dense, Rows, nll
from keeltune.tasks.common.example import Prediction
from keeltune.tasks.common.whole_text import WholeText
from keeltune.tasks.metrics.classification import Classification
from keeltune.tasks.metrics.metric import Metric


class SequenceClassification(WholeText):
    """One choice among the labels for a row; with `multi_label` a yes/no choice for each of them.

    Single label: N = B, C = L. Multi-label: N = B × L, C = 2 (no, yes), whose softmax over (0, z) is the sigmoid.
    """

    answer = "label"
    scored_by: ClassVar[tuple[type[Metric], ...]] = (Classification,)
    pipeline = "text-classification"
    separate_head = True
    columns = (
        Column("text", "text"),
        Column("text_pair", "text", required=False),
        Column("label", "label", label=True),
    )

    @classmethod
    def labels_of(cls, row: Row) -> list[str]:
        value = row.fields.get("label", [])
        return [value] if isinstance(value, str) else list(value)

    def setup(self) -> None:
        super().setup()
        self.names = list(self.settings.labels)
        self.index = {name: i for i, name in enumerate(self.names)}
        weights = self.settings.class_weights or {}
        self.label_weights = [float(weights.get(name, 1.0)) for name in self.names]

    def targets(self, row: Row, *, labelled: bool) -> tuple[Sequence[int], Sequence[float], Mapping[str, Any]]:
        if not labelled:
            predictions = len(self.names) if self.settings.multi_label else 1
            return [IGNORED] * predictions, [1.0] * predictions, {}
        label = row.fields["label"]
        if self.settings.multi_label:
            return [int(name in label) for name in self.names], self.label_weights, {}
        return [self.index[label]], [self.label_weights[self.index[label]]], {}

    def rows(self, outputs: Any, batch: Mapping[str, Any], order: Sequence[int] | None = None) -> Rows:
        logits: Tensor = outputs.logits if order is None else outputs.logits[:, list(order)]  # [B, L]
        if self.settings.multi_label:
            logits = torch.stack([torch.zeros_like(logits), logits], dim=-1).flatten(0, 1)  # [B × L, 2]
        return Dense(logits)

    def decode(self, rows: Rows, batch: Mapping[str, Any]) -> list[Prediction]:
        probs = rows.log_probs(slice(None)).exp()
        table = (probs[:, 1] if self.settings.multi_label else probs).reshape(len(batch["keys"]), -1).tolist()  # [B, L]
        labelled = (batch["targets"] != IGNORED) * batch["weights"]
        losses = nll(rows, batch["targets"], batch["weights"]).reshape(len(table), -1).sum(-1).tolist()
        counts = labelled.reshape(len(table), -1).sum(-1).tolist()
        return [
            Prediction(self._choice(p), dict(zip(self.names, p, strict=True)), loss, count)
            for p, loss, count in zip(table, losses, counts, strict=True)
        ]

    def gold(self, row: Row) -> Any:
        label = row.fields["label"]
        return sorted(label, key=self.index.__getitem__) if self.settings.multi_label else label

    def _choice(self, probabilities: Sequence[float]) -> Any:
        if self.settings.multi_label:
            return [name for name, p in zip(self.names, probabilities, strict=True) if p > 0.5]
        return self.names[int(np.argmax(probabilities))]
