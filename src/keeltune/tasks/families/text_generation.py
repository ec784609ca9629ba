"""Tasks whose answer is a text, whatever kind of model writes it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from keeltune.data.dataset import Row
from keeltune.models import generation, languages
from keeltune.objective.predictions import PerSlice, Rows
from keeltune.tasks.architectures.architecture import Architecture
from keeltune.tasks.architectures.causal import Causal
from keeltune.tasks.architectures.ctc import Ctc
from keeltune.tasks.architectures.seq2seq import Seq2Seq
from keeltune.tasks.common.batches import Autocast
from keeltune.tasks.common.control_tokens import encode_text
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.padding import cut_text, pad_tokens
from keeltune.tasks.task import Task
from keeltune.utils.errors import shown

T = TypeVar("T")


class TextGeneration(Task):
    """A text is written: summaries, translations, captions, transcripts, answers.

    Encoder-decoders read `source`; decoders read a prompt around it (`settings.prompt`, or the task's own) and write
    behind it; CTC models read sound and spell it out.
    """

    auto_models: ClassVar[tuple[str, ...]] = ("AutoModelForSeq2SeqLM", "AutoModelForCausalLM")
    answer = "text"
    choices = "tokens"
    generates = True

    prompt: ClassVar[str] = "{source}\n"
    """What a decoder reads where the recipe has no prompt; names in braces are columns, `{source}` is the source."""

    def setup(self) -> None:
        self.unknown_languages = self._tell_languages()
        self.architecture: Architecture = self.architecture_class(self)

    def adopt(self, model: Any, processor: Any, examples: Sequence[Example] = ()) -> list[str]:
        """Texts are written by one `GenerationConfig`, which the model carries from now on and is saved with."""
        notes = super().adopt(model, processor)
        self._tell_languages()
        if self.architecture.framewise:
            return notes
        config = self.architecture.generation_config(model.generation_config)
        generation.allow(config, {token for example in examples for token in example.targets})
        model.generation_config = config
        return notes

    @property
    def base_choices(self) -> dict[str, Any]:
        """What the model's own settings would choose of how texts are written, and this task does not."""
        if self.settings.stored is None or self.architecture.framewise:
            return {}
        stored = self.settings.stored
        return generation.differences(stored, self.architecture.generation_config(stored))

    def language_faults(self, *, needed: bool = False) -> list[Fault]:
        """What is wrong with the recipe's `languages` for this model; `needed`: a model of several must be told."""
        known = languages.language_tokens(self.tokenizer)
        expected = f"one of its {len(known)} languages, such as {', '.join(sorted(known)[:8])}"
        if self.settings.languages and not known:
            found, fix = f"{' to '.join(self.settings.languages)}, for a model that is not told any", "leave it out"
            return [Fault("languages", "unknown language", found, "nothing: the model has its languages already", fix)]
        if needed and self.untold and not self.settings.languages:
            fix = "write languages: {source: English, target: German}"
            return [Fault("languages", "no languages", "nothing, for a model of several languages", expected, fix)]
        return [
            Fault("languages", "unknown language", shown(name), expected,
                  f"write its name, or its code{languages.nearest_language(name, known)}")
            for name in self.unknown_languages
        ]  # fmt: skip

    def _tell_languages(self) -> list[str]:
        """Tells the tokenizer in which languages it reads and writes; those that it does not know.

        The recipe's; else those that the model was trained for, as its tokenizer or its settings say.
        """
        self.untold = False
        tokenizer, stored = self.tokenizer, self.settings.stored
        known = languages.language_tokens(tokenizer)
        if not known:
            return []
        names = {i: name for name, i in known.items()}
        told = self.settings.languages
        spelt = [languages.spelt(name, known) for name in told or ()]
        source, target = spelt if told and None not in spelt else (None, None)
        if target is None:
            forced = [
                getattr(stored, "forced_bos_token_id", None),
                *dict(getattr(stored, "forced_decoder_ids", None) or ()).values(),
            ]
            own = [
                getattr(tokenizer, "tgt_lang", None),
                getattr(tokenizer, "language", None),
                getattr(stored, "language", None),
            ]
            meant = next((name for name in (*own, *map(names.get, forced)) if name), None)
            target, source = languages.spelt(meant, known) if meant else None, getattr(tokenizer, "src_lang", None)
            if target is None and hasattr(tokenizer, "tgt_lang"):  # of one language, or a fault is reported
                self.untold, target = True, source or next(iter(known))
            languages.tell(tokenizer, source or target, target, task=getattr(stored, "task", None))
        else:
            languages.tell(tokenizer, source, target, task="transcribe" if source == target else "translate")
        return [name for name, known_as in zip(told or (), spelt, strict=True) if known_as is None]

    @property
    def architecture_class(self) -> type[Architecture]:
        """What writes the texts of this kind of model (`tasks/architectures/`)."""
        if getattr(self.settings.config, "is_encoder_decoder", False):
            return Seq2Seq
        return Ctc if self.settings.auto_model == "AutoModelForCTC" else Causal

    # What a task says

    @abstractmethod
    def source(self, row: Row) -> str:
        """The text that is read."""

    @abstractmethod
    def target(self, row: Row) -> str:
        """The text that is to be written."""

    # What the architectures ask for

    def source_inputs(self, row: Row) -> tuple[dict[str, Any], int, bool]:
        """What an encoder reads of a row, its length (of sound: the encoder's frames), and whether it was cut."""
        limit = self.settings.max_length
        encoded = encode_text(self.tokenizer, self.source(row), truncation=limit is not None, max_length=limit)
        truncated = bool(encoded.encodings and encoded.encodings[0].overflowing)
        return dict(encoded), len(encoded["input_ids"]), truncated

    def prompt_inputs(self, row: Row, answer: int) -> tuple[dict[str, Any], bool]:
        """What a decoder reads of a row before an answer of so many tokens, and whether the source was cut to fit."""
        text = self.source(row)
        ids = self._prompt_ids(row, text)
        limit = self.settings.max_length
        room = None if limit is None else limit - max(answer, self.settings.max_new_tokens)
        if room is None or len(ids) <= room:
            return {"input_ids": ids}, False
        around = len(self._prompt_ids(row, ""))
        ids = self._prompt_ids(row, cut_text(self.tokenizer, text, max(1, room - around)))
        return {"input_ids": ids}, True

    def _prompt_ids(self, row: Row, source: str) -> list[int]:
        text = (self.settings.prompt or self.prompt).replace("{source}", source)
        for name, value in row.fields.items():
            if isinstance(value, str):
                text = text.replace("{" + name + "}", source if value == self.source(row) else value)
        ids = list(self.tokenizer(text)["input_ids"])
        end = self.architecture.end
        return ids[:-1] if len(ids) > 1 and end and ids[-1] == end[0] else ids

    def lengthened(self, name: str, values: list[int], count: int) -> list[int]:
        """A prompt's input of one number a token, with those of `count` tokens that are written behind it."""
        return [*values, *[0] * count]

    def own_generate(self, model: Any) -> Callable[..., Tensor] | None:
        """The model's own `generate`, where it writes what it is trained on and the general one cannot; else None."""
        return None

    # The contract, handed on to the architecture

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        return [self.architecture.encode(row, self.target(row) if labelled else None)]

    def notices(self, examples: Sequence[Example]) -> list[str]:
        return [*self._generation_notices(), *self._prompt_notices(examples)]

    def _generation_notices(self) -> list[str]:
        listed = ", ".join(f"{name} {value}" for name, value in self.base_choices.items())
        return [
            f"texts are not written by the model's own {listed}; what `generation` says is scored and saved"
        ] * bool(listed)

    def _prompt_notices(self, examples: Sequence[Example]) -> list[str]:
        if not self.architecture.reads_prompt or not examples:
            return []
        trained, tokens = sum(len(e.targets) for e in examples), sum(len(e.inputs["input_ids"]) for e in examples)
        return [f"{trained} of {tokens} tokens ({trained / tokens:.0%}) are trained on; prompts are only read"]

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        batch = super().collate(examples)
        self.architecture.extend(batch, examples)
        return batch

    def pad(self, inputs: Sequence[Mapping[str, Any]], *, left: bool = False) -> dict[str, Tensor]:
        decoder = [{"input_ids": i["decoder_input_ids"]} for i in inputs if "decoder_input_ids" in i]
        batch = self.pad_source([{k: v for k, v in i.items() if k != "decoder_input_ids"} for i in inputs], left=left)
        if decoder:
            batch["decoder_input_ids"] = pad_tokens(self.tokenizer, decoder, left=False)["input_ids"]
        return batch

    def pad_source(self, inputs: Sequence[Mapping[str, Any]], *, left: bool = False) -> dict[str, Tensor]:
        """What is read, without the decoder's part, as tensors."""
        return pad_tokens(self.tokenizer, inputs, left=left)

    def counts(self, batch: Mapping[str, Any]) -> tuple[float, float]:
        return self.architecture.counts(batch)

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        return self.architecture.forward(model, batch)

    def rows(self, outputs: Any, batch: Mapping[str, Any], order: Sequence[int] | None = None) -> Rows:
        return self.architecture.rows(outputs, batch)

    def cross_entropy(self, rows: Rows, batch: Mapping[str, Any]) -> Tensor:
        return self.architecture.cross_entropy(rows, batch)

    def sliced_cross_entropy(self, batch: Mapping[str, Any]) -> PerSlice | None:
        return self.architecture.sliced_cross_entropy(batch)

    def losses(self, rows: Rows, batch: Mapping[str, Any]) -> list[float]:
        return self.architecture.losses(rows, batch)

    @property
    def reads_prompt(self) -> bool:
        return self.architecture.reads_prompt

    @property
    def samples(self) -> bool:
        return self.architecture.samples

    # What a model writes, whatever other rows it writes for at the same time

    def groups(self, model: Any, examples: Sequence[Example], device: str) -> list[list[int]]:
        """The indices of the examples that may share a batch: all, where padding changes nothing of what is written."""
        return self.architecture.groups(model, examples, device)

    def sample_ids(self, model: Any, examples: Sequence[Example], device: str) -> list[list[int]]:
        return self._by_group(model, examples, device, lambda part: self.architecture.sample(model, part, device))

    def answered(self, example: Example, ids: Sequence[int]) -> Example:
        return self.architecture.answered(example, ids)

    def candidates(self, model: Any, examples: Sequence[Example], device: str, count: int = 1) -> list[list[str]]:
        return self._by_group(
            model, examples, device, lambda part: self.architecture.candidates(model, part, device, count)
        )

    def predict(
        self, model: Any, examples: Sequence[Example], *, device: str = "cpu", autocast: Autocast = nullcontext
    ) -> list[Prediction]:
        return self._by_group(
            model, examples, device, lambda part: self.architecture.predict(model, part, device, autocast)
        )

    def _by_group(
        self, model: Any, examples: Sequence[Example], device: str, run: Callable[[Sequence[Example]], Sequence[T]]
    ) -> list[T]:
        """What `run` makes of each group, in the order of the examples."""
        results: dict[int, T] = {}
        for group in self.groups(model, examples, device):
            results |= dict(zip(group, run([examples[i] for i in group]), strict=True))
        return [results[i] for i in range(len(examples))]
