"""Encoder-decoders: the encoder reads, the decoder writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED
from keeltune.tasks.architectures.architecture import SAMPLING, Architecture, beam_options
from keeltune.tasks.common.batches import stack, to_device
from keeltune.tasks.common.control_tokens import encode_target
from keeltune.tasks.common.example import Example
from keeltune.utils.errors import Problem, UserError


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

    def extend(self, batch: dict[str, Any], examples: Sequence[Example]) -> None:
        """A mask for two models joined, which would take a padding token that starts or ends a text for padding."""
        if self.task.settings.config.model_type == "encoder-decoder":
            lengths = [len(e.inputs["decoder_input_ids"]) for e in examples]
            batch["inputs"]["decoder_attention_mask"] = stack([[1] * n for n in lengths], fill=0)

    @property
    def start(self) -> int:
        """The token that the decoder starts from: as the model says, else as `transformers` would start it.

        Raises UserError where nothing says it.
        """
        config, tokenizer = self.task.settings.config, self.task.tokenizer
        parts = [
            part for part in (config, getattr(config, "decoder", None), config.get_text_config(decoder=True)) if part
        ]
        names = ("decoder_start_token_id", "bos_token_id")
        configured = [getattr(part, name, None) for name in names for part in parts]
        configured.insert(len(parts), self.task.target_language_id())
        start = next((i for i in [*configured, tokenizer.bos_token_id] if i is not None), None)
        if start is None:
            found = "no decoder_start_token_id, and no token that begins a text"
            fix = "write decoder_start_token_id into its config.json: the token that its training began targets with"
            raise UserError(Problem("", "model", found, "a token from which the decoder starts", fix))
        return int(start)

    def target_ids(self, text: str) -> tuple[list[int], bool]:
        """The tokens of a target as the tokenizer writes targets, with its end; cut to `target_max_length`."""
        ids = list(encode_target(self.task.tokenizer, text)["input_ids"])
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
        if self.task.settings.config.model_type == "encoder-decoder":
            batch["decoder_attention_mask"] = torch.ones(len(examples), 1, dtype=torch.long, device=device)
        if language is not None and language != self.start:
            options["forced_bos_token_id"] = language
        lines: list[list[int]] = self.generate(model, batch, **options).tolist()
        return lines
