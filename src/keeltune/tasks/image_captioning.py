from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import ModelOutput

from keeltune.data import images
from keeltune.data.columns import Column
from keeltune.data.dataset import Row, in_row
from keeltune.data.images import Look, joined
from keeltune.data.media import ArrayCache, Decoded, Media, Unreadable
from keeltune.models import positions, processors, shapes
from keeltune.tasks.common import own_generation
from keeltune.tasks.common.chat_forms import Conversation
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.padding import pad_tokens
from keeltune.tasks.common.padding_effect import PaddingEffect, Unmeasured
from keeltune.tasks.common.picture_chat import PictureTask, marks_itself, special_tokens
from keeltune.tasks.common.prompt import place_faults, prompt_or_none
from keeltune.tasks.metrics.caption_bleu import CaptionBleu
from keeltune.tasks.metrics.cider import Cider
from keeltune.utils.errors import Problem, UserError

SIZES = ((48, 32), (32, 48), (96, 32), (256, 256))
"""Pictures, width and height, that show whether a model's have one size."""


class ImageCaptioning(PictureTask):
    """What a picture shows, in a sentence, by a vision encoder-decoder or by a decoder that reads pictures.

    A picture has several captions: training makes an example of each, scoring compares with all (its loss is that of
    the first). Metrics: CIDEr-D, 0..10, and BLEU-4, 0..1 (`metrics/cider.py`, `metrics/caption_bleu.py`). CIDEr is
    above 0 only where several pictures are scored, as an n-gram's weight is log(pictures / pictures whose captions have
    it).
    """

    auto_models = ("AutoModelForImageTextToText",)
    pipeline = "image-to-text"
    scored_by = (Cider, CaptionBleu)
    columns = (Column("image", "image"), Column("captions", "texts", label=True))

    @property
    def extractor(self) -> Any:
        """What turns a picture into numbers."""
        return processors.extractor_of(self.processor)

    def setup(self) -> None:
        super().setup()
        self.arrays = ArrayCache()
        self.marks_itself: bool | None = None
        self.probes: list[Look] = []
        self.prompts: dict[str, dict[str, list[int]]] = {}
        """Of each picture by its digest, the tokens of its prompt, where pictures have several sizes."""
        self.positions: int | None = None
        self.room: int | None = None
        config = self.settings.config
        if config is None:
            return
        blank = images.library().new
        try:
            self.probes = [self._look(blank("RGB", size)) for size in SIZES]
        except Exception as error:  # a processor fails in its own words, and each of them means: it cannot read
            found = f"{type(self.processor).__name__}, which fails on a plain picture: {str(error)[:200]}"
            expected = "a model folder whose processor reads a picture, in the recipe's prompt where it reads prompts"
            fix = "save the model's own processor there (processor_config.json), or correct the prompt"
            raise UserError(Problem("", "model", found, expected, fix, "processor fails")) from error
        self.positions = positions.target_positions(self.shape)
        if self.positions:  # nothing longer is trained on, and nothing longer can be written
            read = 0 if config.is_encoder_decoder else min(len(look.tokens["input_ids"]) for look in self.probes)
            self.room = int(self.positions) - read
            longest = min(n for n in (self.settings.target_max_length, self.room) if n is not None)
            new = min(self.settings.max_new_tokens, self.room)
            self.settings = replace(self.settings, target_max_length=max(2, longest), max_new_tokens=max(1, new))

    def recipe_faults(self) -> list[Fault]:
        faults: list[Fault] = []
        config = self.settings.config
        known = "a vision encoder-decoder, or a decoder that reads pictures, such as GIT, LLaVA or Qwen2-VL"
        if find_spec("pycocoevalcap") is None:
            faults.append(Fault("task", "missing library", "no pycocoevalcap", "the library that computes CIDEr",
                               "pip install 'keeltune[vision]'"))  # fmt: skip
        shapes = [{name: value.shape[1:] for name, value in look.arrays.items()} for look in self.probes]
        if not shapes[0] or (len(shapes[0]) == 1 and any(other != shapes[0] for other in shapes)):
            kind = f"{config.model_type}, whose pictures have no fixed size, and nothing says which they have"
            faults.append(Fault("model", "pictures of another form", kind, known, "take a model of another kind"))
        if own_generation.writes_in_its_own_way(config):
            kind = f"{config.model_type}, whose class writes text in a way of its own"
            faults.append(Fault("model", "text of its own", kind, known, "take a model of another kind"))
        marked = any(getattr(config, n, None) is not None for n in ("image_token_id", "image_token_index"))
        if marked and self.mark is None:
            faults.append(
                Fault("model", "no processor", f"{config.model_type} without what marks the picture in a text",
                      "a model folder with its processor (processor_config.json)",
                      "save the processor there too; one that reads videos as well needs torchvision")
            )  # fmt: skip
        if self.room is not None and self.room < 2:
            read = min(len(look.tokens["input_ids"]) for look in self.probes)
            kind = f"a prompt of {read} tokens and the picture's among them"
            faults.append(Fault("prompt", "prompt too long", kind, "room for a caption behind it", "shorten it"))
        read = self.mark is not None or not config.is_encoder_decoder
        if not (self.reads_chat or self.given_prompt is None or isinstance(self.given_prompt, str)):
            found, fix = f"messages, and {config.model_type} without a chat template", "write it as one text"
            faults.append(Fault("prompt", "messages not read", found, "a text with {image} in it", fix))
        faults += place_faults(self.settings.prompt, "image", "" if read else str(config.model_type))
        return faults

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterable[Fault]:
        try:
            images.read(row.fields["image"])
        except Unreadable as error:
            return [Fault("image", error.kind, f"{row.fields['image']}: {error.found}", error.expected, error.fix)]
        return []

    def source(self, row: Row) -> str:
        return ""

    def target(self, row: Row) -> str:
        return str(row.fields["captions"][0])

    def with_target(self, row: Row, value: Any) -> Row:
        return replace(row, fields={**row.fields, "captions": [value]})

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        if not labelled:
            return self.encode_scored(row, labelled=False)
        captions = row.fields["captions"]
        return [replace(self._example(row, caption), key=f"{row.key}#{i}") for i, caption in enumerate(captions)]

    def encode_scored(self, row: Row, *, labelled: bool = True) -> list[Example]:
        return [self._example(row, self.target(row) if labelled else None)]

    def notices(self, examples: Sequence[Example]) -> list[str]:
        converted = [e for e in examples if "converted" in e.notes]
        kinds = {next(v for v in e.inputs.values() if isinstance(v, Decoded)): e.notes["converted"] for e in converted}
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(kinds.values()).items()))
        notices = [f"{len(kinds)} pictures are made RGB of 8 bits: {listed}"] if kinds else []
        return [*super().notices(examples), *notices]

    @cached_property
    def padding_effect(self) -> PaddingEffect:
        return Unmeasured()  # a picture's arrays are not a row each, so a batch of them is not taken apart

    def groups(self, model: Any, examples: Sequence[Example], device: str) -> list[list[int]]:
        return [list(range(len(examples)))]

    def row_faults(self, row: Row, examples: Sequence[Example]) -> Iterable[Fault]:
        """A picture of so many tokens that no caption has room behind it."""
        longest = max((len(e.notes["prompt"]["input_ids"]) for e in examples if "prompt" in e.notes), default=0)
        positions, written = self.positions, max([self.settings.max_new_tokens, *(len(e.targets) for e in examples)])
        if positions and longest + written > positions:
            found = f"{row.fields['image']}: {longest} tokens of picture and prompt"
            fix = "make the picture smaller, or lower the processor's size (max_pixels)"
            return [Fault("image", "picture too large", found, f"room for a caption within {positions} tokens", fix)]
        return []

    def source_inputs(self, row: Row) -> tuple[dict[str, Any], int, bool]:
        """What an encoder reads; pictures of one size count as one token, so that captions are grouped by length."""
        inputs = self._inputs(row)
        return inputs, max(1, len(inputs.get("input_ids", ()))), False

    def prompt_inputs(self, row: Row, answer: int) -> tuple[dict[str, Any], bool]:
        return self._inputs(row), False

    def lengthened(self, name: str, values: list[int], count: int) -> list[int]:
        """As the model's own generation lengthens it: PaliGemma's marks say what is prompt and what is written."""
        known = {"attention_mask": torch.ones(1, len(values), dtype=torch.long), name: torch.tensor([values])}
        updated = self.shape._update_model_kwargs_for_generation(ModelOutput(), known, num_new_tokens=1)
        added = updated[name][0].tolist()[len(values) :]
        return [*values, *added * count] if added else super().lengthened(name, values, count)

    def pad_source(self, inputs: Sequence[Mapping[str, Any]], *, left: bool = False) -> dict[str, Tensor]:
        """Tokens padded; a picture's arrays one behind the other, as the model's processor makes a batch of them."""
        names = [name for name, value in inputs[0].items() if isinstance(value, Decoded)]
        texts = [{name: value for name, value in item.items() if name not in names} for item in inputs]
        batch = pad_tokens(self.tokenizer, texts, left=left) if texts[0] else {}
        return batch | {name: torch.from_numpy(joined([np.asarray(i[name]) for i in inputs])) for name in names}

    def gold(self, row: Row) -> Any:
        return list(row.fields["captions"])

    def _example(self, row: Row, caption: str | None) -> Example:
        example = self.architecture.encode(row, caption)
        with in_row(row, "image"):
            kind = images.conversion(row.fields["image"])
        return replace(example, notes={**example.notes, "converted": kind}) if kind else example

    def own_generate(self, model: Any) -> Any:
        return own_generation.own_generate(model) if self.settings.config.model_type in own_generation.KINDS else None

    # What a model reads of a picture

    @cached_property
    def shape(self) -> Any:
        """The model without its weights."""
        return shapes.shape_of(self.settings.config, self.settings.auto_model)

    def _inputs(self, row: Row) -> dict[str, Any]:
        """The prompt's tokens, and the picture's arrays, which are made when they are wanted."""
        tokens, names, digest = self.probes[0].tokens, self.probes[0].arrays, row.fields["image"].digest
        if any(look.tokens != tokens for look in self.probes):  # a larger picture has more tokens
            if digest not in self.prompts:
                with in_row(row, "image"):
                    look = self._look(images.read(row.fields["image"]))
                self.arrays.keep(digest, look.arrays)
                self.prompts[digest] = look.tokens
            tokens = self.prompts[digest]
        return {**tokens, **{name: Decoded(digest, name, partial(self._array, row, name)) for name in names}}

    def _array(self, row: Row, name: str) -> np.ndarray:
        media: Media = row.fields["image"]
        if (cached := self.arrays.get(media.digest)) is not None:
            return cached[name]
        with in_row(row, "image"):
            opened = images.read(media)
        arrays = self._look(opened).arrays
        self.arrays.keep(media.digest, arrays)
        return arrays[name]

    def _look(self, picture: Any) -> Look:
        """A picture as the model reads it: by its processor in a prompt, else by its extractor, beside a prompt."""
        mark, encodes = self.mark, self.settings.config.is_encoder_decoder
        if mark is not None and self.reads_chat:
            plain = self.chat.asked(Conversation(self.shown))
            read = dict(self.processor(images=[picture], text=[plain], **special_tokens(self.tokenizer, plain)))
            return self._taken(read, np.shape(read["input_ids"]), plain)
        # Qwen2-VL counts what it writes from the token before it, which must not be one of the picture's
        text = "{image}" if mark is None or encodes else "{image}\n"
        prompt = prompt_or_none(self.given_prompt if isinstance(self.given_prompt, str) else text)
        plain = prompt.filled(lambda name: "")
        if mark is None:
            return self._taken(dict(self.extractor(images=picture, return_tensors="np")), None, plain)
        marked = prompt.filled(lambda name: mark) if "image" in prompt.names else mark + plain
        if self.marks_itself is None:
            self.marks_itself = marks_itself(self.processor, mark, picture, plain, marked)
        read = dict(self.processor(images=[picture], text=[plain if self.marks_itself else marked]))
        return self._taken(read, np.shape(read["input_ids"]), plain)

    def _taken(self, read: dict[str, Any], width: tuple[int, ...] | None, plain: str) -> Look:
        """Of what was made of a picture and a text what the model takes: numbers for each token, and arrays."""
        known = inspect.signature(self.shape.forward).parameters.keys() - {"labels"}
        read = {name: np.asarray(value) for name, value in read.items() if name in known}
        tokens = {name: value[0].tolist() for name, value in read.items() if value.shape == width}
        if not self.settings.config.is_encoder_decoder:
            tokens = self._opened(tokens or {"input_ids": self.tokenizer(plain)["input_ids"]})
        arrays = {name: value for name, value in read.items() if name not in tokens and value.shape != width}
        arrays = {n: v.astype(np.float32) if v.dtype.kind == "f" else v.astype(np.int64) for n, v in arrays.items()}
        return Look(tokens, arrays)

    def _opened(self, tokens: dict[str, list[int]]) -> dict[str, list[int]]:
        """A prompt without the end of text behind it, and never empty."""
        ids = list(tokens["input_ids"])
        if self.architecture.end and ids[-1:] == self.architecture.end:
            tokens = {name: list(values)[:-1] for name, values in tokens.items()}
        tokenizer = self.tokenizer
        if self.settings.config.model_type == "blip":  # its own `generate` puts this in the place of the first token
            first = self.settings.config.text_config.bos_token_id
            return {n: list(v) for n, v in tokens.items() if n != "attention_mask"} | {"input_ids": [first, *ids[1:-1]]}
        starts = (tokenizer.bos_token_id, tokenizer.cls_token_id, *self.architecture.end, tokenizer.pad_token_id)
        if not tokens["input_ids"]:
            return {"input_ids": [next(i for i in starts if i is not None)]}
        return {name: list(values) for name, values in tokens.items() if name != "attention_mask"}
