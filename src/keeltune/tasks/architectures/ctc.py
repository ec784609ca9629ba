"""CTC: every frame of sound chooses a letter or nothing, and any alignment of the text counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from keeltune.data.dataset import Row
from keeltune.objective.host_counts import at_predictions, sizes
from keeltune.objective.predictions import IGNORED, Dense, Rows
from keeltune.tasks.architectures.architecture import Architecture
from keeltune.tasks.common.batches import Autocast, to_device
from keeltune.tasks.common.control_tokens import encode_text
from keeltune.tasks.common.example import Example, Prediction


class Ctc(Architecture):
    """−log P(y|x) = −log Σ over the alignments of y of Π P(frame). N = frames, C = letters and the blank.

    Cross-entropy is a sum over texts, no sum over frames: n_CE counts label characters, n_D frames. A text that cannot
    fit into its frames has probability 0; it is refused with the data, never zeroed.
    Source: Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf.
    """

    framewise = True

    @property
    def samples(self) -> bool:
        return False

    def encode(self, row: Row, target: str | None) -> Example:
        tokenizer = self.task.tokenizer
        inputs, frames, truncated = self.task.source_inputs(row)
        labels = [] if target is None else list(encode_text(tokenizer, target, add_special_tokens=False)["input_ids"])
        return Example(
            inputs,
            labels,
            [1.0] * len(labels),
            row.key,
            frames,
            predicted=[True] * frames,
            count=frames,
            truncated=truncated,
            notes={"labels": labels},
        )

    def extend(self, batch: dict[str, Any], examples: Sequence[Example]) -> None:
        """`labels` [B, longest] and their lengths; the frames themselves have no target."""
        texts = [[t for t in e.targets if t != IGNORED] for e in examples]
        lengths = [len(text) for text in texts]
        labels = torch.full((len(examples), max(1, *lengths)), IGNORED)
        for i, text in enumerate(texts):
            labels[i, : lengths[i]] = torch.as_tensor(text, dtype=torch.long)
        frames = sum(e.predictions for e in examples)
        batch |= {
            "labels": labels,
            "label_lengths": torch.tensor(lengths),
            "label_sizes": lengths,
            "targets": torch.full((frames,), IGNORED),
            "weights": torch.ones(frames),
        }

    def counts(self, batch: Mapping[str, Any]) -> tuple[float, float]:
        return float(batch["label_lengths"].sum()), float(batch["anchored"].sum())

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        return self.task.padding_effect.forward(model, batch)

    def rows(self, outputs: Any, batch: Mapping[str, Any]) -> Rows:
        return Dense(at_predictions(outputs.logits[:, : batch["predicted"].shape[1]], batch))

    def cross_entropy(self, rows: Rows, batch: Mapping[str, Any]) -> Tensor:
        return self.loss_per_example(rows, batch).sum()

    def sliced_cross_entropy(self, batch: Mapping[str, Any]) -> None:
        return None

    def losses(self, rows: Rows, batch: Mapping[str, Any]) -> list[float]:
        return [float(value) for value in self.loss_per_example(rows, batch).detach()]

    def loss_per_example(self, rows: Rows, batch: Mapping[str, Any]) -> Tensor:
        """−log P(y|x) of each example [B] in nats; 0 for one without labels."""
        log_probs = rows.log_probs(slice(None))  # [N, C]
        frames = sizes(batch)
        padded = torch.nn.utils.rnn.pad_sequence(log_probs.split(frames))  # [F, B, C]
        labels, lengths = batch["labels"], batch["label_lengths"]
        # lengths on the host, where torch reads them
        spoken, written = torch.tensor(frames), torch.tensor(batch.get("label_sizes") or lengths.tolist())
        value = functional.ctc_loss(
            padded, labels.clamp_min(0), spoken, written, blank=self.blank, reduction="none", zero_infinity=False
        )
        return torch.where(lengths > 0, value, value.detach() * 0.0 + padded.sum() * 0.0)

    @property
    def blank(self) -> int:
        """The choice "no letter": the padding token of a CTC tokenizer, else of the configuration."""
        token = self.task.tokenizer.pad_token_id
        return int(self.task.settings.config.pad_token_id if token is None else token)

    def predict(
        self, model: Any, examples: Sequence[Example], device: str, autocast: Autocast = nullcontext
    ) -> list[Prediction]:
        """The texts and the losses, from one forward pass."""
        batch = to_device(self.task.collate(examples), device)
        with autocast():
            outputs = self.task.forward(model, batch)
        rows = self.rows(outputs, batch)
        answers = zip(self.spelt(rows, batch), self.losses(rows, batch), examples, strict=True)
        return [Prediction(text, None, loss, example.labelled) for text, loss, example in answers]

    def candidates(self, model: Any, examples: Sequence[Example], device: str, count: int = 1) -> list[list[str]]:
        batch = to_device(self.task.collate(examples), device)
        with torch.no_grad():
            rows = self.rows(self.task.forward(model, batch), batch)
        return [[text] for text in self.spelt(rows, batch)]

    def spelt(self, rows: Rows, batch: Mapping[str, Any]) -> list[str]:
        """The text of each example's likeliest frames, one choice a frame."""
        best = rows.log_probs(slice(None)).argmax(-1).split(batch["counts"].tolist())
        return [self.spell(line.tolist()) for line in best]

    def spell(self, ids: Sequence[int]) -> str:
        """Repeats merged, blanks dropped: the text of the best frame choices."""
        options = self.unmerged
        if options is None:  # the tokenizer does both
            return str(self.task.tokenizer.decode(list(ids))).strip()
        merged = [i for n, i in enumerate(ids) if (n == 0 or ids[n - 1] != i) and i != self.blank]
        decode = self.task.tokenizer.decode
        return str(decode(merged, skip_special_tokens=True, clean_up_tokenization_spaces=False, **options)).strip()

    @cached_property
    def unmerged(self) -> dict[str, Any] | None:
        """How the tokenizer is asked to keep repeats, which are merged already; None where it merges them always."""
        tokenizer = self.task.tokenizer
        special = set(tokenizer.all_special_ids)
        letter = next((i for i in range(len(tokenizer)) if i not in special and tokenizer.decode([i]).strip()), None)
        for options in ({}, {"group_tokens": False}):
            if letter is None or tokenizer.decode([letter] * 2, **options) != tokenizer.decode([letter], **options):
                return options
        return None
