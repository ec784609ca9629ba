"""What tasks share that read a text (or a pair of texts) and say something of it as a whole."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from torch import Tensor

from keeltune.data.dataset import Row
from keeltune.tasks.common.control_tokens import encode_text, encoding_ahead
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.padding import pad_tokens
from keeltune.tasks.task import Task


class WholeText(Task):
    """Columns `text` and perhaps `text_pair`; a head on the model's summary of them."""

    auto_models = ("AutoModelForSequenceClassification",)
    whole_texts: ClassVar[tuple[str, ...]] = ("text", "text_pair")

    def setup(self) -> None:
        self.ends = 0

    @abstractmethod
    def targets(self, row: Row, *, labelled: bool) -> tuple[Sequence[int], Sequence[float], Mapping[str, Any]]:
        """The targets of an example, their weights, and its notes; not `labelled`: as many that are ignored."""

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        inputs = encode_text(self.processor, *self._texts(row), **self._cut)
        targets, weights, notes = self.targets(row, labelled=labelled)
        truncated = bool(inputs.encodings and inputs.encodings[0].overflowing)
        length = len(inputs["input_ids"])
        return [Example(dict(inputs), targets, weights, row.key, length, truncated=truncated, notes=notes)]

    def encoding_ahead(self, rows: Sequence[Row]) -> AbstractContextManager[None]:
        return encoding_ahead(self.processor, [self._texts(row) for row in rows], **self._cut)

    @property
    def _cut(self) -> dict[str, Any]:
        """What the tokenizer is told of the length."""
        return {"truncation": self.settings.max_length is not None, "max_length": self.settings.max_length}

    @staticmethod
    def _texts(row: Row) -> tuple[str, str | None]:
        return row.fields["text"], row.fields.get("text_pair")

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
