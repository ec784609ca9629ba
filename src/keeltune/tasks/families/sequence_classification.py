"""One choice, or several yes/no choices, for a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED, Dense, Rows, nll
from keeltune.tasks.common.control_tokens import encode_text
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.padding import pad_tokens
from keeltune.tasks.metrics.classification import Classification
from keeltune.tasks.metrics.metric import Metric
from keeltune.tasks.task import Task


class SequenceClassification(Task):
    """One choice among the labels for a row; with `multi_label` a yes/no choice for each of them.

    Single label: N = B, C = L. Multi-label: N = B × L, C = 2 (no, yes), whose softmax over (0, z) is the sigmoid.
    """

    auto_models = ("AutoModelForSequenceClassification",)
    answer = "label"
    scored_by: ClassVar[tuple[type[Metric], ...]] = (Classification,)
    pipeline = "text-classification"
    separate_head = True
    whole_texts: ClassVar[tuple[str, ...]] = ("text", "text_pair")
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
        weights = self.settings.class_weights or {}
        self.label_weights = [float(weights.get(name, 1.0)) for name in self.names]
        self.ends = 0

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        inputs = encode_text(
            self.processor,
            row.fields["text"],
            row.fields.get("text_pair"),
            truncation=self.settings.max_length is not None,
            max_length=self.settings.max_length,
        )
        targets, weights = self._targets(row) if labelled else self._no_targets()
        truncated = bool(inputs.encodings and inputs.encodings[0].overflowing)
        return [Example(dict(inputs), targets, weights, row.key, len(inputs["input_ids"]), truncated=truncated)]

    def row_faults(self, row: Row, examples: Sequence[Example]) -> Iterable[Fault]:
        """Of an encoder-decoder (BART's kind) the end of the text stands for all of it, as its configuration has it.

        It is the last of as many as every other row of a batch has.
        """
        config = self.settings.config
        if not getattr(config, "is_encoder_decoder", False):
            return
        for example in examples:
            ends = list(example.inputs["input_ids"]).count(config.eos_token_id)
            self.ends = self.ends or ends
            if not ends:
                found = f"a text without the token {config.eos_token_id}, which {config.model_type} reads its class off"
                fix = "use the model's own tokenizer, which puts it behind every text"
                yield Fault("model", "no end of text", found, "the end of text that config.json names", fix)
            elif ends != self.ends:
                found = f"a row of {ends} ends of text, where others have {self.ends}"
                expected = f"as many in each row, which {config.model_type} reads its class off"
                yield Fault("text_pair", "ends of text", found, expected, "give every row a text_pair, or none")

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
