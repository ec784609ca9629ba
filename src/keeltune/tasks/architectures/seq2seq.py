"""Encoder-decoders: the encoder reads, the decoder writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from keeltune.data.dataset import Row
from keeltune.models import positions
from keeltune.models.languages import language_tokens, whisper_opening
from keeltune.models.whisper import is_whisper
from keeltune.objective.predictions import IGNORED
from keeltune.tasks.architectures.architecture import SAMPLING, Architecture, bare
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
        inputs, length, source_cut = self.task.source_inputs(row)
        labels: list[int] = []
        target_cut = False
        if target is not None:
            labels, target_cut = self.target_ids(target)
        given = self.given_in(self.task.spoken(row))
        shifted = [self.start, *given, *labels[:-1]]
        return Example(
            {**inputs, "decoder_input_ids": shifted},
            labels,
            [1.0] * len(labels),
            row.key,
            length + len(labels),
            predicted=self._predicted(len(labels)),
            truncated=source_cut or target_cut,
            notes={"source_cut": source_cut, "target_cut": target_cut, "given": given},
        )

    def extend(self, batch: dict[str, Any], examples: Sequence[Example]) -> None:
        """A mask for two models joined, which would take a padding token that starts or ends a text for padding."""
        if self.task.settings.config.model_type == "encoder-decoder":
            lengths = [len(e.inputs["decoder_input_ids"]) for e in examples]
            batch["inputs"]["decoder_attention_mask"] = stack([[1] * n for n in lengths], fill=0)

    def _predicted(self, count: int) -> list[bool]:
        """Which of the decoder's tokens predict one of `count` that are written: not those that are given."""
        return [*[False] * len(self.given), *([True] * count or [False])]

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before each target, and behind its end."""
        ids = list(self.task.tokenizer(text_target="")["input_ids"])
        ends = [n for n, i in enumerate(ids) if [i] == self.end]
        return (ids[: ends[-1]], ids[ends[-1] + 1 :]) if ends else (ids, [])

    @cached_property
    def language_ids(self) -> dict[str, int]:
        return language_tokens(self.task.tokenizer)

    @property
    def tells_languages(self) -> bool:
        return is_whisper(self.task.tokenizer) and any(i in self.languages for i in self.given)

    @cached_property
    def languages(self) -> frozenset[int]:
        return frozenset(self.language_ids.values())

    @property
    def before(self) -> list[int]:
        """What the tokenizer puts before each target, behind the start token, which some put there themselves."""
        before = self.frame[0]
        return before[1:] if before[:1] == [self.start] else before

    @property
    def given(self) -> list[int]:
        """The tokens behind the start that tell the decoder what to write: a language, Whisper's task. They are given
        wherever a text is written, and so never learnt."""
        before = self.before
        told = is_whisper(self.task.tokenizer) or all(i in self.languages for i in before)
        return before if told else []

    def given_in(self, language: str | None) -> list[int]:
        """`given`, with a row's own language (a name of `language_tokens`) in the place of the recipe's."""
        if language is None:
            return self.given
        token = self.language_ids[language]
        return [token if i in self.languages else i for i in self.given]

    def in_language(self, example: Example, language: str) -> Example:
        """The example with another language told to the decoder."""
        given, ids = self.given_in(language), example.inputs["decoder_input_ids"]
        shifted = [self.start, *given, *ids[1 + len(given) :]]
        return replace(
            example,
            inputs={**example.inputs, "decoder_input_ids": shifted},
            notes={**example.notes, "given": given},
        )

    @cached_property
    def start(self) -> int:
        """The token that the decoder starts from: as the model says, else as `transformers` would start it.

        Raises UserError where nothing says it.
        """
        if self.frame[1] and self.frame[1][-1] in self.languages:
            return self.frame[1][-1]  # mBART's targets end in the language that starts its decoder
        config, tokenizer = self.task.settings.config, self.task.tokenizer
        parts = [
            part for part in (config, getattr(config, "decoder", None), config.get_text_config(decoder=True)) if part
        ]
        parts += [self.task.settings.stored] if self.task.settings.stored is not None else []
        names = ("decoder_start_token_id", "bos_token_id")
        configured = [getattr(part, name, None) for name in names for part in parts]
        start = next((i for i in [*configured, tokenizer.bos_token_id] if i is not None), None)
        if start is None:
            found = "no decoder_start_token_id, and no token that begins a text"
            fix = "write decoder_start_token_id into its config.json: the token that its training began targets with"
            raise UserError(Problem("", "model", found, "a token from which the decoder starts", fix))
        return int(start)

    def target_ids(self, text: str) -> tuple[list[int], bool]:
        """The tokens of a target as the tokenizer writes targets, with its end; cut to `target_max_length`."""
        ids = list(encode_target(self.task.tokenizer, text)["input_ids"])
        if ids and ids[0] == self.start and self.frame[0][:1] == [self.start]:
            ids = ids[1:]  # Whisper's tokenizer puts the start token there itself
        given, behind = self.given, self.frame[1]
        if given and ids[: len(given)] == given:
            ids = ids[len(given) :]
        if behind and ids[-len(behind) :] == behind:
            ids = ids[: -len(behind)]
        if self.end and ids[-1:] != self.end and self.end[0] not in ids[-2:]:
            ids += self.end
        limit, places = self.task.settings.target_max_length, self.task.settings.bounds.written
        if places is not None:  # of which what is given takes some
            limit = min(limit or places, places - len(given))
        if limit is not None and len(ids) > limit:
            return ids[: limit - len(self.end)] + self.end, True
        return ids, False

    def sample(self, model: Any, examples: Sequence[Example], device: str) -> list[list[int]]:
        return [self.until_the_end(line) for line in self.written(model, examples, device, **SAMPLING)]

    def answered(self, example: Example, ids: Sequence[int]) -> Example:
        shifted = [self.start, *example.notes["given"], *ids[:-1]]
        source = example.length - len(example.targets)
        return replace(
            example,
            inputs={**example.inputs, "decoder_input_ids": shifted},
            targets=[IGNORED] * len(ids),
            weights=[1.0] * len(ids),
            predicted=self._predicted(len(ids)),
            length=source + len(ids),
        )

    def written(self, model: Any, examples: Sequence[Example], device: str, **options: Any) -> list[list[int]]:
        inputs = [{k: v for k, v in e.inputs.items() if k != "decoder_input_ids"} for e in examples]
        batch = to_device(self.task.pad(inputs), device)
        if self.task.settings.config.model_type == "encoder-decoder":
            batch["decoder_attention_mask"] = torch.ones(len(examples), 1, dtype=torch.long, device=device)
        if is_whisper(self.task.tokenizer):
            opening = [[self.start, *example.notes["given"]] for example in examples]
            batch["decoder_input_ids"] = torch.tensor(opening, device=device)
        lines: list[list[int]] = self.generate(model, batch, **options)[:, 1 + len(self.given) :].tolist()
        return lines

    @property
    def hears(self) -> bool:
        """Whether the model tells a recording's language itself, where nobody names it."""
        return self.task.told.heard

    def hear(self, model: Any, examples: Sequence[Example], device: str) -> list[str]:
        """The language of each recording, as Whisper's own `detect_language` hears it: the likeliest first token."""
        inner = bare(model)
        settings = self.generation_config(inner.generation_config)
        inputs = to_device(self.task.pad([{"input_features": e.inputs["input_features"]} for e in examples]), device)
        ids = inner.detect_language(inputs["input_features"].to(inner.dtype), generation_config=settings).tolist()
        names = {i: name for name, i in self.language_ids.items()}
        return [names[i] for i in ids]

    def transcribed(self, model: Any, examples: Sequence[Example], device: str) -> list[str]:
        """What the model hears, as long as it has places for."""
        places = self.task.settings.bounds.written or positions.target_positions(bare(model))
        room = {} if places is None else {"max_new_tokens": places - 1 - len(self.given)}
        return [self.text(line) for line in self.written(model, examples, device, **room)]

    def opening(self, stored: Any) -> dict[str, Any]:
        """The start and the language; what the base forces to be first only where targets begin with it."""
        whisper = is_whisper(self.task.tokenizer)
        first = self.before[0] if self.before and not whisper else None
        forced = first if self.given or first == stored.forced_bos_token_id else None
        told = whisper_opening(self.task.tokenizer, self.given, heard=self.task.told.heard) if whisper else {}
        return {"decoder_start_token_id": self.start, "forced_bos_token_id": forced, **told}
