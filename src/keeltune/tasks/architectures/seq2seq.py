"""Encoder-decoders: the encoder reads, the decoder writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED
from keeltune.tasks.architectures.architecture import SAMPLING, Architecture, beam_options
from keeltune.tasks.common.batches import to_device
from keeltune.tasks.common.example import Example


class Seq2Seq(Architecture):
    """P(y|x) = Π P(y_t | y_<t, x). N = target tokens, its end among them; C = V.

    The decoder reads the target shifted by one, behind the model's start token: made here, not by the model, which
    would make it from labels and compute its own loss with them.
    """

    def encode(self, row: Row, target: str | None) -> Example:
        inputs, length, truncated = self.task.source_inputs(row)
        labels: list[int] = []
        if target is not None:
            labels, target_cut = self.target_ids(target)
            truncated = truncated or target_cut
        shifted = [self.start, *labels[:-1]]
        return Example(
            {**inputs, "decoder_input_ids": shifted},
            labels,
            [1.0] * len(labels),
            row.key,
            length + len(labels),
            predicted=[True] * len(labels) or [False],
            truncated=truncated,
        )

    @property
    def start(self) -> int:
        """The token that the decoder starts from."""
        config, tokenizer = self.task.settings.config, self.task.tokenizer
        inner = getattr(config, "decoder", None)
        language = self.task.target_language_id()
        configured = [getattr(c, "decoder_start_token_id", None) for c in (config, inner) if c is not None]
        others = [language, tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.pad_token_id]
        return int(next(i for i in [*configured, *others] if i is not None))

    def target_ids(self, text: str) -> tuple[list[int], bool]:
        """The tokens of a target as the tokenizer writes targets, with its end; cut to `target_max_length`."""
        ids = list(self.task.tokenizer(text_target=text)["input_ids"])
        if ids and ids[0] == self.start:
            ids = ids[1:]  # Whisper's tokenizer puts the start token there itself
        if self.end and ids[-1:] != self.end and self.end[0] not in ids[-2:]:
            ids += self.end
        limit = self.task.settings.target_max_length
        if limit is not None and len(ids) > limit:
            return ids[: limit - len(self.end)] + self.end, True
        return ids, False

    def candidates(self, model: Any, examples: Sequence[Example], device: str, count: int = 1) -> list[list[str]]:
        ids = self._generated(model, examples, device, **beam_options(count, self.task.settings.beams))
        return self.texts(ids, count)

    def sample(self, model: Any, examples: Sequence[Example], device: str) -> list[list[int]]:
        return [self.until_the_end(line[1:]) for line in self._generated(model, examples, device, **SAMPLING)]

    def answered(self, example: Example, ids: Sequence[int]) -> Example:
        shifted = [self.start, *ids[:-1]]
        source = example.length - len(example.targets)
        return replace(
            example,
            inputs={**example.inputs, "decoder_input_ids": shifted},
            targets=[IGNORED] * len(ids),
            weights=[1.0] * len(ids),
            predicted=[True] * len(ids) or [False],
            length=source + len(ids),
        )

    def _generated(self, model: Any, examples: Sequence[Example], device: str, **options: Any) -> list[list[int]]:
        inputs = [{k: v for k, v in e.inputs.items() if k != "decoder_input_ids"} for e in examples]
        batch = to_device(self.task.pad(inputs), device)
        language = self.task.target_language_id()
        options |= {"decoder_start_token_id": self.start}
        if language is not None and language != self.start:
            options["forced_bos_token_id"] = language
        lines: list[list[int]] = self.generate(model, batch, **options).tolist()
        return lines
