"""Tasks whose answer is a text, whatever kind of model writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from keeltune.data.dataset import Row
from keeltune.models import generation
from keeltune.objective.predictions import PerSlice, Rows
from keeltune.tasks.architectures.architecture import Architecture
from keeltune.tasks.architectures.causal import Causal
from keeltune.tasks.architectures.ctc import Ctc
from keeltune.tasks.architectures.seq2seq import Seq2Seq
from keeltune.tasks.common.asking_task import AskingTask
from keeltune.tasks.common.batches import Autocast
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.padding import pad_tokens
from keeltune.tasks.common.prompt import prompt_faults
from keeltune.tasks.common.told_languages import ToldLanguages

T = TypeVar("T")


class TextGeneration(AskingTask):
    """A text is written: summaries, translations, captions, transcripts, answers.

    Encoder-decoders read `source`, within the recipe's prompt where it has one; decoders read a prompt around it and
    write behind it (`common/asking.py`): the recipe's, else the one that the model was taught with, which its
    configuration keeps, else the task's instruction, as a message in the model's chat template where it has one. CTC
    models read sound and spell it out.
    """

    auto_models: ClassVar[tuple[str, ...]] = ("AutoModelForSeq2SeqLM", "AutoModelForCausalLM")
    answer = "text"
    choices = "tokens"
    generates = True

    def setup(self) -> None:
        super().setup()
        self.told = ToldLanguages(self.tokenizer, self.settings)
        self.told.tell()
        self.architecture: Architecture = self.architecture_class(self)

    def adopt(self, model: Any, processor: Any, examples: Sequence[Example] = ()) -> list[str]:
        """Texts are written by one `GenerationConfig`, which the model carries from now on and is saved with."""
        notes = super().adopt(model, processor)
        self.told.tell()
        if self.architecture.framewise:
            return notes
        config = self.architecture.generation_config(model.generation_config)
        generation.allow(config, (example.targets for example in examples))
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
        return self.told.faults(needed=needed)

    @property
    def architecture_class(self) -> type[Architecture]:
        """What writes the texts of this kind of model (`tasks/architectures/`)."""
        if getattr(self.settings.config, "is_encoder_decoder", False):
            return Seq2Seq
        return Ctc if self.settings.auto_model == "AutoModelForCTC" else Causal

    # What the architectures ask for

    def spoken(self, row: Row) -> str | None:
        """The language of this row, as the tokenizer names it; None: the recipe's, or the model's."""
        return None

    @property
    def ends(self) -> list[int]:
        """The tokens that end an answer: the tokenizer's end of text, those of the model's generation settings, and
        what ends a turn of its chat template."""
        if self.architecture.framewise:
            return []
        stored = getattr(self.settings.stored, "eos_token_id", None)
        own = [i for i in (stored if isinstance(stored, list) else [stored]) if isinstance(i, int)]
        return list(dict.fromkeys([*self.architecture.end, *(self.chat.ends if self.reads_chat else []), *own]))

    def lengthened(self, name: str, values: list[int], count: int) -> list[int]:
        """A prompt's input of one number a token, with those of `count` tokens that are written behind it."""
        return [*values, *[0] * count]

    def own_generate(self, model: Any) -> Callable[..., Tensor] | None:
        """The model's own `generate`, where it writes what it is trained on and the general one cannot; else None."""
        return None

    # The contract, handed on to the architecture

    def recipe_faults(self) -> list[Fault]:
        faults = prompt_faults(self.settings.prompt, self.columns, self.input_names)
        if self.settings.prompt is not None and not isinstance(self.settings.prompt, str) and not self.reads_prompt:
            found = f"messages, and {self.settings.config.model_type}, which reads one text"
            fix = "write the prompt as one text, or take a decoder"
            faults.append(Fault("prompt", "messages not read", found, "a text with columns in braces", fix))
        return faults

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

    def unpackable(self, model: Any, batch: Mapping[str, Any]) -> str:
        return self.architecture.unpackable(model, batch)

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
