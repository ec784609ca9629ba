"""How one kind of model writes an answer: what it is shown, where its predictions lie, how it is asked for text.

An encoder-decoder, a decoder and a CTC model serve the same applications; a task says what is read and what is right,
its form says the rest. Shapes: B examples, S source and T target tokens, N predictions, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from keeltune.data import Row
from keeltune.families import vocabulary
from keeltune.rows import Rows, nll
from keeltune.tasks.task import Autocast, Example, Prediction, Task, to_device

if TYPE_CHECKING:
    from keeltune.families.writing import Writing


class Form(ABC):
    """One kind of model that writes."""

    def __init__(self, task: Writing):
        self.task = task

    @property
    def end(self) -> list[int]:
        """The token that ends a text, as a list: empty where the tokenizer has none."""
        found = self.task.tokenizer.eos_token_id
        return [] if found is None else [found]

    @abstractmethod
    def encode(self, row: Row, target: str | None) -> Example:
        """A row with the text that is to be written; None for a row without one."""

    def extend(self, batch: dict[str, Any], examples: Sequence[Example]) -> None:  # noqa: B027  (most need nothing)
        """Adds to a collated batch what only this form has."""

    def counts(self, batch: Mapping[str, Any]) -> tuple[float, float]:
        """n_CE and n_D."""
        return Task.counts(self.task, batch)

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        return vocabulary.forward(model, batch)

    def rows(self, outputs: Any, batch: Mapping[str, Any]) -> Rows:
        return vocabulary.rows(outputs, batch)

    def cross_entropy(self, rows: Rows, batch: Mapping[str, Any]) -> Tensor:
        return Task.cross_entropy(self.task, rows, batch)

    def losses(self, rows: Rows, batch: Mapping[str, Any]) -> list[float]:
        """Σ CE of each example, in nats."""
        each = nll(rows, batch["targets"], batch["weights"]).split(batch["counts"].tolist())
        return [part.sum().item() for part in each]

    @abstractmethod
    def write(self, model: Any, examples: Sequence[Example], device: str) -> list[str]:
        """What the model writes, one text an example."""

    def predict(
        self, model: Any, examples: Sequence[Example], device: str, autocast: Autocast = nullcontext
    ) -> list[Prediction]:
        """The texts, and the loss of the right answers where there are any."""
        losses, counts = [0.0] * len(examples), [e.labelled for e in examples]
        if any(counts):
            batch = to_device(self.task.collate(examples), device)
            with autocast():
                outputs = self.forward(model, batch)
            losses = self.losses(self.rows(outputs, batch), batch)
        with autocast():
            texts = self.write(model, examples, device)
        return [Prediction(t, None, loss, n) for t, loss, n in zip(texts, losses, counts, strict=True)]

    def generate(self, model: Any, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        """Greedy or beam search by `transformers`, with the token ids [B, T] that came out.

        The general method, not the model's own: what a class adds to it (windows of sound, languages found by itself)
        would write other texts than those that the model is trained on.
        """
        from transformers import GenerationMixin

        settings = self.task.settings
        tokenizer = self.task.tokenizer
        inner = getattr(model, "module", model)
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        with torch.no_grad():
            ids: Tensor = GenerationMixin.generate(
                inner,
                **inputs,
                do_sample=False,
                num_beams=settings.beams,
                max_new_tokens=settings.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                **options,
            )
        return ids

    def text(self, ids: Sequence[int]) -> str:
        return str(self.task.tokenizer.decode(ids, skip_special_tokens=True)).strip()
