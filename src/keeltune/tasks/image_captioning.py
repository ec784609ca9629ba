from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keeltune import language, models, pictures
from keeltune.data import Column, Media, Row
from keeltune.families.tokens import pad_tokens
from keeltune.families.writing import Writing
from keeltune.pictures import Pixels, Unreadable
from keeltune.problems import Problem, UserError
from keeltune.tasks.task import Example, Fault

ORDER = 4
"""The longest n-grams of both metrics."""

ROOM = 2**31
"""Bytes of decoded pictures that a task keeps in memory; those beyond are read from their files each time."""

SMALL, TINY = 1e-9, 1e-15
"""What pycocoevalcap adds below and above in a precision, so that 0 / 0 is 0."""


class ImageCaptioning(Writing):
    """What a picture shows, in a sentence, by a vision encoder-decoder or by a decoder that reads pictures.

    A picture has several captions: training makes an example of each, scoring compares with all (its loss is that of
    the first). Metrics: CIDEr-D by pycocoevalcap, from 0 to 10 and above 0 only where several pictures are scored, as
    an n-gram's weight is log(pictures / pictures whose captions have it); BLEU-4, 0..1, n-grams by sacrebleu, the
    captions' closest length, and pycocoevalcap's formula. Words are in lower case without punctuation, Chinese by
    character; no Java, so that figures are near those of the PTB tokenizer and not the same.
    Statistics a row: its CIDEr, 1; lengths of answer and closest caption, n-grams right and in all for n = 1..4. An
    interval takes the weights of the n-grams as those of the whole set.
    Sources: Vedantam et al. 2015, https://arxiv.org/abs/1411.5726; Papineni et al. 2002,
    https://aclanthology.org/P02-1040; https://github.com/salaniz/pycocoevalcap.
    """

    auto_models = ("AutoModelForImageTextToText",)
    reads = "image"
    columns = (Column("image", "image"), Column("captions", "texts", label=True))
    prompt = "{image}"

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("cider", "bleu4")

    @property
    def extractor(self) -> Any:
        """What turns a picture into numbers."""
        return models.extractor_of(self.processor)

    def setup(self) -> None:
        super().setup()
        self.kept: dict[str, np.ndarray] = {}
        self.kept_bytes = 0
        config = self.settings.config
        self.prompt_ids = [] if config is None or config.is_encoder_decoder else self._prompted()
        text = config.get_text_config(decoder=True) if config is not None else None
        positions = getattr(text, "max_position_embeddings", None)
        self.room: int | None = None
        if positions:  # nothing longer is trained on, and nothing longer can be written
            self.room = int(positions) - len(self.prompt_ids)
            longest = min(n for n in (self.settings.target_max_length, self.room) if n is not None)
            new = min(self.settings.max_new_tokens, self.room)
            self.settings = replace(self.settings, target_max_length=max(2, longest), max_new_tokens=max(1, new))

    def recipe_faults(self) -> list[Fault]:
        found: list[Fault] = []
        config = self.settings.config
        known = "a vision encoder-decoder, or a decoder that reads pictures of one size, such as GIT or LLaVA"
        if find_spec("pycocoevalcap") is None:
            found.append(Fault("task", "missing library", "no pycocoevalcap", "the library that computes CIDEr",
                               "pip install 'keeltune[vision]'"))  # fmt: skip
        shapes = [self._shape(width, height) for width, height in ((48, 32), (32, 48))]
        if shapes[0] != shapes[1] or shapes[0] is None:
            kind = f"{config.model_type}, whose pictures have no fixed size or more than their pixels"
            found.append(Fault("model", "pictures of another form", kind, known, "take a model of another kind"))
        if not config.is_encoder_decoder and _writes_in_its_own_way(config):
            kind = f"{config.model_type}, whose class writes text in a way of its own"
            found.append(Fault("model", "text of its own", kind, known, "take a model of another kind"))
        places = any(getattr(config, n, None) is not None for n in ("image_token_id", "image_token_index"))
        if places and self._mark is None and not config.is_encoder_decoder:
            found.append(
                Fault("model", "no processor", f"{config.model_type} without what marks the picture in a text",
                      "a model folder with its processor (processor_config.json)", "save the processor there too")
            )  # fmt: skip
        if self.room is not None and self.room < 2:
            kind = f"a prompt of {len(self.prompt_ids)} tokens and the picture's among them"
            found.append(Fault("prompt", "prompt too long", kind, "room for a caption behind it", "shorten it"))
        if unknown := [name for name in re.findall(r"\{(\w+)\}", self.settings.prompt or "") if name != "image"]:
            found.append(Fault("prompt", "unknown name", f"{{{unknown[0]}}}", "{image}, the place of the picture",
                               "leave it out"))  # fmt: skip
        return found

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterable[Fault]:
        try:
            pictures.read(row.fields["image"].path)
        except Unreadable as error:
            return [Fault("image", error.kind, f"{row.fields['image']}: {error.found}", error.expected, error.mend)]
        return []

    def source(self, row: Row) -> str:
        return ""

    def target(self, row: Row) -> str:
        return str(row.fields["captions"][0])

    def with_target(self, row: Row, text: str) -> Row:
        return replace(row, fields={**row.fields, "captions": [text]})

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        if not labelled:
            return self.encode_scored(row, labelled=False)
        captions = row.fields["captions"]
        return [replace(self._example(row, caption), key=f"{row.key}#{i}") for i, caption in enumerate(captions)]

    def encode_scored(self, row: Row, *, labelled: bool = True) -> list[Example]:
        return [self._example(row, self.target(row) if labelled else None)]

    def notices(self, examples: Sequence[Example]) -> list[str]:
        kinds = {e.inputs["pixel_values"].digest: e.notes["converted"] for e in examples if "converted" in e.notes}
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(kinds.values()).items()))
        said = [f"{len(kinds)} pictures are made RGB of 8 bits: {listed}"] if kinds else []
        return [*super().notices(examples), *said]

    def source_inputs(self, row: Row) -> tuple[dict[str, Any], int, bool]:
        """All pictures have one size, so that each counts as one token and captions are grouped by their length."""
        return {"pixel_values": self._pixels(row)}, 1, False

    def prompt_inputs(self, row: Row, answer: int) -> tuple[dict[str, Any], bool]:
        return {"input_ids": self.prompt_ids, "pixel_values": self._pixels(row)}, False

    def pad_source(self, inputs: Sequence[Mapping[str, Any]], *, left: bool = False) -> dict[str, Tensor]:
        pixels = torch.from_numpy(np.stack([np.asarray(item["pixel_values"]) for item in inputs]))  # [B, 3, H, W]
        texts = [{name: value for name, value in item.items() if name != "pixel_values"} for item in inputs]
        return {**(pad_tokens(self.tokenizer, texts, left=left) if texts[0] else {}), "pixel_values": pixels}

    def gold(self, row: Row) -> Any:
        return list(row.fields["captions"])

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        from pycocoevalcap.cider.cider_scorer import CiderScorer
        from sacrebleu.metrics import BLEU

        if not values:
            return np.zeros((0, 4 + 2 * ORDER))
        cider, bleu = CiderScorer(n=ORDER, sigma=6.0), BLEU(tokenize="none", force=True)
        table = []
        for value, captions in zip(values, golds, strict=True):
            answer, right = words(value), [words(caption) or caption.lower() for caption in captions]
            cider += (answer, right)
            table.append(bleu._extract_corpus_statistics([answer], [[one] for one in right])[0])
        own = cider.compute_score()[1]
        return np.array([[c, 1.0, *lengths] for c, lengths in zip(own, table, strict=True)], dtype=np.float64)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        sums = np.asarray(sums, dtype=np.float64)
        return {"cider": sums[..., 0] / np.maximum(sums[..., 1], 1), "bleu4": _bleu(sums[..., 2:], TINY, SMALL)}

    def row_score(self, value: Any, gold: Any) -> float:
        """BLEU-4 of the one answer, 0..1, each count of n > 1 one higher (Lin and Och 2004): CIDEr needs the others."""
        return float(_bleu(self.statistics([value], [gold])[0, 2:], np.array([0, 1, 1, 1]), np.array([SMALL, 1, 1, 1])))

    def _example(self, row: Row, caption: str | None) -> Example:
        example = self.form.encode(row, caption)
        with _named(row):
            kind = pictures.conversion(row.fields["image"].path)
        return replace(example, notes={**example.notes, "converted": kind}) if kind else example

    def _pixels(self, row: Row) -> Pixels:
        return Pixels(row.fields["image"].digest, partial(self._numbers, row))

    def _numbers(self, row: Row) -> np.ndarray:
        """A row's picture as the model reads it, [3, H, W] float32."""
        picture: Media = row.fields["image"]
        if (kept := self.kept.get(picture.digest)) is not None:
            return kept
        with _named(row):
            opened = pictures.read(picture.path)
        numbers = np.asarray(self.extractor(images=opened, return_tensors="np")["pixel_values"][0], dtype=np.float32)
        if self.kept_bytes + numbers.nbytes <= ROOM:
            self.kept[picture.digest] = numbers
            self.kept_bytes += numbers.nbytes
        return numbers

    def _shape(self, width: int, height: int) -> tuple[int, ...] | None:
        """The shape of the numbers of a picture of this size; None where they are not [channels, H, W] and no more."""
        read = self.extractor(images=pictures.library().new("RGB", (width, height)), return_tensors="np")
        shape = np.shape(read["pixel_values"][0]) if set(read) == {"pixel_values"} else ()
        return shape if len(shape) == 3 else None

    @property
    def _mark(self) -> str | None:
        """What stands for a picture in a text, where the processor puts the picture's tokens in its place."""
        return getattr(self.processor, "image_token", None)

    def _prompted(self) -> list[int]:
        """The tokens of the prompt, the same for each picture: all have one size, and so as many tokens."""
        text = self.settings.prompt or self.prompt
        if self._mark is not None:
            text = text.replace("{image}", self._mark) if "{image}" in text else self._mark + text
            blank = pictures.library().new("RGB", (48, 32))
            ids = list(self.processor(images=[blank], text=[text])["input_ids"][0])
        else:
            ids = list(self.tokenizer(text.replace("{image}", ""))["input_ids"])
        if self.form.end and ids[-1:] == self.form.end:
            ids = ids[:-1]
        tokenizer = self.tokenizer
        starts = (tokenizer.bos_token_id, tokenizer.cls_token_id, *self.form.end, tokenizer.pad_token_id)
        return ids or [next(i for i in starts if i is not None)]


@contextmanager
def _named(row: Row) -> Iterator[None]:
    """A picture that cannot be read becomes a problem of its row."""
    try:
        yield
    except Unreadable as error:
        place, found = f"{row.file}:{row.line}", f"{row.fields['image']}: {error.found}"
        raise UserError(Problem(place, "image", found, error.expected, error.mend, error.kind)) from error


def words(text: str) -> str:
    """The words that the metrics count, with a space between: lower case, no punctuation, Chinese by character."""
    return " ".join(re.findall(r"\w+(?:['’]\w+)*", language.apart(text.lower())))


def _bleu(sums: np.ndarray, above: Any, below: Any) -> np.ndarray:
    """brevity · (Π (right + above) / (all + below))^¼, as pycocoevalcap's BleuScorer has it; sums [..., 2 + 8]."""
    answer, closest = sums[..., 0], sums[..., 1]
    right, total = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    mean = ((right + above) / (total + below)).prod(-1) ** (1 / ORDER)
    ratio = (answer + TINY) / (closest + SMALL)
    with np.errstate(over="ignore"):
        return np.asarray(mean * np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0))


def _writes_in_its_own_way(config: Any) -> bool:
    """Whether an architecture has a `generate` of its own, which may show the decoder something else than training."""
    from transformers import AutoModelForImageTextToText, GenerationMixin

    made = AutoModelForImageTextToText._model_mapping[type(config)]
    return made.generate is not GenerationMixin.generate
