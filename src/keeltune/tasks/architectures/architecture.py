"""How one kind of model writes an answer: what it is shown, where its predictions lie, how it is asked for text.

An encoder-decoder, a decoder and a CTC model serve the same applications; a task says what is read and what is right,
its architecture says the rest. Shapes: B examples, S source and T target tokens, N predictions, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from keeltune.data.dataset import Row
from keeltune.models.generation import plain_generation, scored_generation
from keeltune.objective.predictions import PerSlice, Rows, cross_entropy, sliced_cross_entropy
from keeltune.tasks.common import lm_head
from keeltune.tasks.common.batches import Autocast, labelled_and_anchored, losses_by_example, shapes, to_device
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.padding_effect import PaddingEffect
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.common.told_languages import ToldLanguages


class TextTask(Protocol):
    """What an architecture asks of the task whose texts it writes (`text_generation.TextGeneration`)."""

    settings: Settings
    told: ToldLanguages

    def spoken(self, row: Row) -> str | None: ...

    @property
    def padding_effect(self) -> PaddingEffect: ...

    @property
    def tokenizer(self) -> Any: ...

    def source_inputs(self, row: Row) -> tuple[dict[str, Any], int, bool]: ...

    def prompt_inputs(self, row: Row, answer: int) -> tuple[dict[str, Any], bool]: ...

    def own_generate(self, model: Any) -> Callable[..., Tensor] | None: ...

    def answer_ids(self, row: Row, target: str) -> list[int]: ...

    @property
    def ends(self) -> list[int]: ...

    def lengthened(self, name: str, values: list[int], count: int) -> list[int]: ...

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]: ...

    def pad(self, inputs: Sequence[Mapping[str, Any]], *, left: bool = False) -> dict[str, Tensor]: ...

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any: ...


class Architecture(ABC):
    """One kind of model that writes."""

    reads_prompt: ClassVar[bool] = False
    """Whether prompt and answer are one sequence, of which the prompt is only read."""

    framewise: ClassVar[bool] = False
    """Whether each frame of the input is a prediction, and a text is any alignment to them."""

    @property
    def blank(self) -> int | None:
        """The choice "no letter" of a frame; None where there is none."""
        return None

    @property
    def given(self) -> list[int]:
        """The tokens that are given to what writes, before each text."""
        return []

    @property
    def language_ids(self) -> dict[str, int]:
        """The languages that it can be told, with their tokens' ids."""
        return {}

    @property
    def tells_languages(self) -> bool:
        """Whether it is told the language of each row (Whisper of several languages)."""
        return False

    def __init__(self, task: TextTask):
        self.task = task

    @property
    def end(self) -> list[int]:
        """The token that ends a text, as a list: empty where the tokenizer has none. BERT's kind ends with [SEP]."""
        tokenizer = self.task.tokenizer
        token = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        return [] if token is None else [token]

    @abstractmethod
    def encode(self, row: Row, target: str | None) -> Example:
        """A row with the text that is to be written; None for a row without one."""

    def extend(self, batch: dict[str, Any], examples: Sequence[Example]) -> None:  # noqa: B027  (most need nothing)
        """Adds to a collated batch what only this architecture has."""

    def counts(self, batch: Mapping[str, Any]) -> tuple[float, float]:
        """n_CE and n_D."""
        return labelled_and_anchored(batch)

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        return self.task.padding_effect.forward(model, batch, selects=True)

    def unpackable(self, model: Any, batch: Mapping[str, Any]) -> str:
        """Why this model cannot be handed the texts of a batch packed (`training.packing`); empty where it can."""
        return "it is no decoder"

    def rows(self, outputs: Any, batch: Mapping[str, Any]) -> Rows:
        return lm_head.rows(outputs, batch)

    def cross_entropy(self, rows: Rows, batch: Mapping[str, Any]) -> Tensor:
        return cross_entropy(rows, batch["targets"], batch["weights"])

    def sliced_cross_entropy(self, batch: Mapping[str, Any]) -> PerSlice | None:
        return sliced_cross_entropy(batch["targets"], batch["weights"])

    def losses(self, rows: Rows, batch: Mapping[str, Any]) -> list[float]:
        """Σ CE of each example, in nats."""
        return losses_by_example(rows, batch)

    def groups(self, model: Any, examples: Sequence[Example], device: str) -> list[list[int]]:
        """The indices of the examples that may be written for in one batch, as their inputs may be read in one."""
        batch = {"inputs": self.task.pad([e.inputs for e in examples]), "shapes": [shapes(e) for e in examples]}
        return self.task.padding_effect.groups(model, to_device(batch, device))

    def written(self, model: Any, examples: Sequence[Example], device: str, **options: Any) -> list[list[int]]:
        """The token ids that the model writes, without what is given to it, padded behind; `options` of generation."""
        raise NotImplementedError(f"{type(self).__name__} writes no tokens")

    def candidates(self, model: Any, examples: Sequence[Example], device: str, count: int = 1) -> list[list[str]]:
        """The `count` best texts that the model writes for each example, the likeliest first."""
        ids = self.written(model, examples, device, **beam_options(count, self.task.settings.beams))
        return self.texts(ids, count)

    @property
    def samples(self) -> bool:
        """Whether texts can be sampled from such a model."""
        return True

    def sample(self, model: Any, examples: Sequence[Example], device: str) -> list[list[int]]:
        """Token ids sampled from the model, one text an example, its end among them, from torch's random state."""
        raise NotImplementedError(f"{type(self).__name__} samples no text")

    def answered(self, example: Example, ids: Sequence[int]) -> Example:
        """The example with `ids` as its text: as many predictions, and no label, so that it carries D alone."""
        raise NotImplementedError(f"{type(self).__name__} takes no text")

    def is_cut(self, ids: Sequence[int]) -> bool:
        """Whether what was written reached the most tokens without its end."""
        ends = set(self.task.ends)
        return bool(ends) and len(ids) >= self.task.settings.max_new_tokens and ends.isdisjoint(ids)

    def until_the_end(self, ids: Sequence[int]) -> list[int]:
        """What was written, up to its end and with it; the padding behind it is left out."""
        ends, pad = set(self.task.ends), self.task.tokenizer.pad_token_id
        written: list[int] = []
        for i in ids:
            written.append(int(i))
            if i in ends:
                break
        while ends and written and written[-1] == pad and pad not in ends:
            written.pop()
        return written

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
            written = self.written(model, examples, device)
        return [
            Prediction(self.text(ids), None, loss, count, cut=self.is_cut(ids), ids=tuple(self.until_the_end(ids)))
            for ids, loss, count in zip(written, losses, counts, strict=True)
        ]

    def generation_config(self, stored: Any) -> Any:
        """The one `GenerationConfig` by which texts are written, scored and saved; `stored`: the model's own."""
        settings, ends = self.task.settings, self.task.ends
        ours = {
            "do_sample": False,
            "num_beams": settings.beams,
            "max_new_tokens": settings.max_new_tokens,
            "pad_token_id": self.task.tokenizer.pad_token_id,
            "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
            **settings.decoding,
        }
        return scored_generation(stored, {**ours, **self.opening(stored)})

    def opening(self, stored: Any) -> dict[str, Any]:
        """How the model is told from what a text begins, as `GenerationConfig` names it."""
        return {}

    def generate(self, model: Any, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        """Greedy or beam search by `transformers`, with the token ids [B × texts, T] that came out.

        The general method, not the model's own: what a class adds to it (windows of sound, languages found by itself)
        would write other texts than those that the model is trained on. Its settings are the model's from here on.
        """
        from transformers import GenerationMixin, PreTrainedModel

        inner = bare(model)
        own = inner.generation_config = self.generation_config(inner.generation_config)
        if options.keys() & {"do_sample", "output_logits"}:  # of the model itself, no text of ours
            inner.generation_config = plain_generation(own)
        try:
            with torch.no_grad():
                own_way = self.task.own_generate(inner)
                if own_way is None:  # an exported model is none of transformers', and writes by its own rules
                    general = isinstance(inner, PreTrainedModel)
                    own_way = partial(GenerationMixin.generate, inner) if general else inner.generate
                ids: Tensor = own_way(**inputs, **options)
        finally:
            inner.generation_config = own
        return ids

    def texts(self, lines: Sequence[Sequence[int]], count: int) -> list[list[str]]:
        """Generated token ids as texts, `count` a row."""
        texts = [self.text(line) for line in lines]
        return [texts[start : start + count] for start in range(0, len(texts), count)]

    def text(self, ids: Sequence[int]) -> str:
        return str(self.task.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def bare(model: Any) -> Any:
    """The `transformers` model within what wraps it: several processes, an adapter."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def beam_options(count: int, beams: int) -> dict[str, int]:
    """Options of generation for `count` texts a row: as many beams at least."""
    return {} if count == 1 else {"num_return_sequences": count, "num_beams": max(count, beams)}


SAMPLING: dict[str, Any] = {"do_sample": True, "num_beams": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
"""Options of generation that sample from the model's own distribution, nothing cut off or sharpened."""
