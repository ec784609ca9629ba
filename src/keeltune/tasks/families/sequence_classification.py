"""One choice, or several yes/no choices, for a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED, Dense, Rows, nll
from keeltune.tasks.families.padding import pad_tokens
from keeltune.tasks.task import Example, Prediction, Task, ratio


class Classify(Task):
    """One choice among the labels for a row; with `multi_label` a yes/no choice for each of them.

    Single label: N = B, C = L. Multi-label: N = B × L, C = 2 (no, yes), whose softmax over (0, z) is the sigmoid.
    Statistics of a label: how often right, predicted, gold; and one column of rows that are right as a whole.
    """

    auto_models = ("AutoModelForSequenceClassification",)
    pipeline = "text-classification"
    separate_head = True
    whole_texts = ("text", "text_pair")
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
        self.names = list(self.settings.labels)
        self.index = {name: i for i, name in enumerate(self.names)}
        given = self.settings.class_weights or {}
        self.label_weights = [float(given.get(name, 1.0)) for name in self.names]

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        inputs = self.processor(
            row.fields["text"],
            row.fields.get("text_pair"),
            truncation=self.settings.max_length is not None,
            max_length=self.settings.max_length,
        )
        targets, weights = self._targets(row) if labelled else self._no_targets()
        truncated = bool(inputs.encodings and inputs.encodings[0].overflowing)
        return [Example(dict(inputs), targets, weights, row.key, len(inputs["input_ids"]), truncated=truncated)]

    def pad(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return pad_tokens(self.processor, inputs)

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

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        chosen, right = self._indicators(values), self._indicators(golds)
        whole = (chosen == right).all(-1, keepdims=True)
        return np.concatenate([chosen * right, chosen, right, whole, np.ones_like(whole)], axis=-1).astype(np.float64)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        hits, chosen, gold, whole, rows = self._split(sums)
        f1 = ratio(2 * hits, chosen + gold)
        # scikit-learn's macro average: over the labels that occur; for label indicators over all
        counted = np.ones_like(gold, dtype=bool) if self.settings.multi_label else (chosen + gold) > 0
        values = {
            "accuracy": ratio(whole, rows),
            "macro_f1": ratio((f1 * counted).sum(-1), counted.sum(-1)),
            "micro_f1": ratio(2 * hits.sum(-1), (chosen + gold).sum(-1)),
            "mcc": _matthews(hits.sum(-1), rows, chosen, gold),
        }
        return {name: values[name] for name in self.metrics}

    def details(self, sums: np.ndarray) -> dict[str, Any]:
        hits, chosen, gold, _, _ = self._split(sums)
        columns = zip(
            self.names, ratio(hits, chosen), ratio(hits, gold), ratio(2 * hits, chosen + gold), gold, strict=True
        )
        return {
            "by_label": {
                name: {"precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
                for name, p, r, f, n in columns
            }
        }

    def row_score(self, value: Any, gold: Any) -> float:
        if not self.settings.multi_label:
            return float(value == gold)
        both = len(set(value)) + len(set(gold))
        return 2 * len(set(value) & set(gold)) / both if both else 1.0

    def _targets(self, row: Row) -> tuple[list[int], list[float]]:
        label = row.fields["label"]
        if self.settings.multi_label:
            return [int(name in label) for name in self.names], self.label_weights
        return [self.index[label]], [self.label_weights[self.index[label]]]

    def _no_targets(self) -> tuple[list[int], list[float]]:
        predictions = len(self.names) if self.settings.multi_label else 1
        return [IGNORED] * predictions, [1.0] * predictions

    def _choice(self, probabilities: Sequence[float]) -> Any:
        if self.settings.multi_label:
            return [name for name, p in zip(self.names, probabilities, strict=True) if p > 0.5]
        return self.names[int(np.argmax(probabilities))]

    def _indicators(self, values: Sequence[Any]) -> np.ndarray:
        """Which labels each row names: [rows, L] of 0 and 1."""
        table = np.zeros((len(values), len(self.names)), dtype=bool)
        for i, value in enumerate(values):
            for name in value if self.settings.multi_label else [value]:
                table[i, self.index[name]] = True
        return table

    def _split(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        n = len(self.names)
        return sums[..., :n], sums[..., n : 2 * n], sums[..., 2 * n : 3 * n], sums[..., 3 * n], sums[..., 3 * n + 1]


def _matthews(hits: np.ndarray, rows: np.ndarray, chosen: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Matthews correlation for any number of labels (Gorodkin 2004), 0 where one side is constant."""
    covariance = hits * rows - (chosen * gold).sum(-1)
    spread = (rows**2 - (chosen**2).sum(-1)) * (rows**2 - (gold**2).sum(-1))
    return ratio(covariance, np.sqrt(np.maximum(spread, 0)))
