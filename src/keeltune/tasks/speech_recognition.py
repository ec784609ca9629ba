from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from keeltune.data import audio
from keeltune.data.columns import Column
from keeltune.data.dataset import Row, in_row
from keeltune.data.media import ArrayCache, Decoded, Media, Unreadable
from keeltune.models import loading, processors
from keeltune.objective.predictions import IGNORED
from keeltune.tasks.families import lm_head
from keeltune.tasks.families.ctc import Ctc
from keeltune.tasks.families.seq2seq import Seq2Seq
from keeltune.tasks.families.text_generation import Writing
from keeltune.tasks.task import Example, Fault
from keeltune.utils.device import in_eval_mode
from keeltune.utils.errors import shown
from keeltune.utils.text import apart

LENGTHS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")
"""How the encoders of transformers call the method that counts their output frames."""

NORMALISER = "lower case, no punctuation, one space"

PROBES, TOLERANCE = 4, 2e-5
"""Lengths at which padding is tried, and the relative difference of outputs above which it is no rounding."""


class SpeechRecognition(Writing):
    """What is said in a recording, by an encoder-decoder that writes it or by a CTC model that spells it.

    Metrics: WER and CER, 0 and up, less is better: word (character) errors / words (characters), summed over the rows,
    as jiwer counts them. Both sides are normalised first: NFC, lower case, no punctuation, one space between words;
    Chinese has a character for a word. Statistics a row: word errors, words, character errors, characters.
    Source: Morris, Maier and Green 2004, https://www.isca-archive.org/interspeech_2004/morris04_interspeech.html.

    A recording is read at its own rate, as one channel, and resampled to the rate that the model hears. It is never
    cut: its text would not fit any more. Recordings of several lengths share a batch where the model's output does not
    depend on the padding behind them, which is measured; elsewhere those of one length run together.
    """

    auto_models = ("AutoModelForSpeechSeq2Seq", "AutoModelForCTC")
    pipeline = "automatic-speech-recognition"
    reads = "sound"
    accepts_languages = True
    columns = (Column("audio", "audio"), Column("text", "text", label=True))

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("wer", "cer")

    def setup(self) -> None:
        super().setup()
        self.kept = ArrayCache()
        self.facts: dict[str, tuple[int, int, int]] = {}
        """Of each recording by its digest: its rate in Hz, its channels, its samples at the model's rate."""
        self.counted: dict[int, int] = {}
        self.bad_languages: str | None = None
        self.padding: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
        """Of each model, whether its output depends on the padding."""
        if self.settings.config is None:
            return
        bound = loading.target_positions(self.settings.config) if isinstance(self.architecture, Seq2Seq) else None
        if bound:  # nothing longer can be written
            self.settings = replace(self.settings, max_new_tokens=min(self.settings.max_new_tokens, bound))
        if self.settings.languages and hasattr(self.tokenizer, "set_prefix_tokens"):
            spoken, written = self.settings.languages
            try:
                self.tokenizer.set_prefix_tokens(
                    language=written, task="transcribe" if spoken == written else "translate", predict_timestamps=False
                )
                _ = self.tokenizer.prefix_tokens
            except ValueError as error:
                self.bad_languages = str(error).splitlines()[0][:200]

    def recipe_faults(self) -> list[Fault]:
        audio.library()
        found: list[Fault] = []
        config = self.settings.config
        known = "an encoder-decoder such as Whisper, or a CTC model such as wav2vec2"
        if not isinstance(self.architecture, Ctc | Seq2Seq):
            kind = f"{config.model_type}, which reads sound inside a prompt"
            found.append(Fault("model", "sound in a prompt", kind, known, "take a model of another kind"))
        elif isinstance(self.architecture, Ctc) and self.counter is None:
            kind = f"{config.model_type}, which does not say how many frames it makes of a recording"
            found.append(Fault("model", "unknown frames", kind, known, "take a model of another kind"))
        if self.settings.max_length is not None:
            found.append(
                Fault("max_length", "sound is not cut", shown(self.settings.max_length),
                      "no max_length: a recording that is cut does not fit its text", "leave it out")
            )  # fmt: skip
        if self.settings.languages and (self.bad_languages or not hasattr(self.tokenizer, "set_prefix_tokens")):
            said = self.bad_languages or "languages for a model that is not told any"
            found.append(
                Fault("languages", "unknown language", said, "languages as the model's tokenizer names them",
                      "write {source: german, target: german}; nothing for a model of one language")
            )  # fmt: skip
        return found

    # Rows

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterable[Fault]:
        try:
            audio.read(row.fields["audio"].path)
        except Unreadable as error:
            return [Fault("audio", error.kind, f"{row.fields['audio']}: {error.found}", error.expected, error.fix)]
        return []

    def row_faults(self, row: Row, examples: Sequence[Example]) -> Iterator[Fault]:
        """Texts that the model cannot write, or not of this recording."""
        media: Media = row.fields["audio"]
        _, _, samples = self.facts[media.digest]
        if any(example.truncated for example in examples) and (window := self.window) and samples > window:
            found, expected = f"{media}: {samples / self.rate:.1f} s", f"at most {window / self.rate:g} s, all it hears"
            yield Fault("audio", "recording too long", found, expected, "cut it where its text can be cut too")
        heard = (e.predictions if isinstance(self.architecture, Ctc) else e.length - len(e.targets) for e in examples)
        if not all(heard):
            short = _too_short(samples / self.rate)
            yield Fault("audio", short.kind, f"{media}: {short.found}", short.expected, short.fix)
            return
        text = row.fields.get("text")
        if text is None:
            return
        labels = [i for example in examples for i in example.notes.get("labels", example.targets) if i != IGNORED]
        if unexpected_keys := self.unexpected_keys(str(text), labels):
            listed = ", ".join(map(repr, unexpected_keys[:20]))
            known, fix = "letters of the tokenizer's vocabulary", "write them otherwise (5 as five), or leave them out"
            yield Fault("text", "unknown letters", f"{listed} in {shown(str(text))}", known, fix)
        if isinstance(self.architecture, Ctc):
            for example in examples:
                repeats = sum(a == b for a, b in pairwise(labels))
                needed, frames = len(labels) + repeats, example.predictions
                if needed > frames:
                    seconds = samples / self.rate
                    found = f"{len(labels)} letters and {repeats} repeats for {frames} frames ({seconds:.2f} s)"
                    yield Fault("text", "text longer than its recording", found, f"at least {needed} frames",
                                "check that the text belongs to the recording, or delete the row")  # fmt: skip

    def unexpected_keys(self, text: str, labels: Sequence[int]) -> list[str]:
        """The letters of a text that the tokenizer has no token for, and tokens in it that are no text."""
        tokenizer, unknown = self.tokenizer, self.tokenizer.unk_token_id
        found: list[str] = []
        if isinstance(self.architecture, Ctc) and self.architecture.blank in labels:
            found.append(str(tokenizer.pad_token))
        if unknown is not None and unknown in labels and unknown not in self.architecture.end:
            letters = [c for c in dict.fromkeys(self.spelt(text)) if not c.isspace()]
            lost = [c for c in letters if unknown in tokenizer(c, add_special_tokens=False)["input_ids"]]
            found += lost or [str(tokenizer.unk_token)]
        return found

    def source(self, row: Row) -> str:
        return ""

    def target(self, row: Row) -> str:
        return self.spelt(str(row.fields["text"]))

    def spelt(self, text: str) -> str:
        """A text in the letters of a CTC model: one space between words, and the other case where it has but that."""
        if not isinstance(self.architecture, Ctc) or not hasattr(self.tokenizer, "word_delimiter_token"):
            return text
        return "".join(self._letter(c) for c in " ".join(unicodedata.normalize("NFC", text).split()))

    def _letter(self, letter: str) -> str:
        if letter in self.vocabulary:
            return letter
        return next((c for c in (letter.upper(), letter.lower()) if c in self.vocabulary), letter)

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        return frozenset(self.tokenizer.get_vocab())

    def gold(self, row: Row) -> Any:
        return row.fields["text"]

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        shapes = {name: np.shape(value) for name, value in self._read(row).items()}
        return [
            replace(example, notes={**example.notes, "digest": row.fields["audio"].digest, "shapes": shapes})
            for example in super().encode(row, labelled=labelled)
        ]

    def notices(self, examples: Sequence[Example]) -> list[str]:
        facts = [self.facts[digest] for digest in {e.notes["digest"] for e in examples if "digest" in e.notes}]
        rates = Counter(rate for rate, _, _ in facts if rate != self.rate)
        said = [
            f"{count} recordings of {rate} Hz are resampled to the {self.rate} Hz that the model hears"
            for rate, count in sorted(rates.items())
        ]
        if mixed := sum(channels > 1 for _, channels, _ in facts):
            said.append(f"{mixed} recordings of several channels are averaged to one")
        letters = "".join(token for token in self.vocabulary if len(token) == 1)
        if isinstance(self.architecture, Ctc) and letters.isupper() != letters.islower():
            said.append(f"the model spells in {'upper' if letters.isupper() else 'lower'} case, and so are the texts")
        return [*super().notices(examples), *said, f"WER and CER are of normalised texts: {NORMALISER}"]

    # What the model hears

    @property
    def extractor(self) -> Any:
        """What turns sound into numbers."""
        return processors.extractor_of(self.processor)

    @property
    def rate(self) -> int:
        """Samples a second that the model hears."""
        return int(self.extractor.sampling_rate)

    @property
    def window(self) -> int | None:
        """Samples of the one length that the extractor makes of every recording; None where it keeps their own."""
        return getattr(self.extractor, "n_samples", None)

    def source_inputs(self, row: Row) -> tuple[dict[str, Any], int, bool]:
        """What the extractor makes of a recording, the frames that the encoder makes of it, and whether it was cut."""
        arrays, digest = self._read(row), row.fields["audio"].digest
        mask = next((value for name, value in arrays.items() if name.endswith("mask")), None)
        size = int(mask.sum()) if mask is not None else max(next(iter(arrays.values())).shape)
        inputs = {name: Decoded(digest, name, partial(self._array, row, name)) for name in arrays}
        return inputs, self.frames(size), self.window is not None and self.facts[digest][2] > self.window

    def frames(self, length: int) -> int:
        """How many output frames the encoder makes of so many samples or frames; the very number where it says none."""
        if length not in self.counted:
            counter = self.counter
            self.counted[length] = length if counter is None else max(0, int(counter(torch.tensor([length]))))
        return self.counted[length]

    @cached_property
    def counter(self) -> Any:
        """The method of the model, or of its encoder, that counts frames. It needs no weight."""
        shape = loading.skeleton(self.settings.config, self.settings.auto_model)
        found = (getattr(module, name, None) for module in shape.modules() for name in LENGTHS)
        return next((counts for counts in found if counts is not None), None)

    def _array(self, row: Row, name: str) -> np.ndarray:
        return self._read(row)[name]

    def _read(self, row: Row) -> Mapping[str, np.ndarray]:
        """A recording as the model reads it: a wave [T], or mel features [T, D] or [D, T]; perhaps a mask [T]."""
        media: Media = row.fields["audio"]
        if (kept := self.kept.get(media.digest)) is not None:
            return kept
        with in_row(row, "audio"):
            recording = audio.read(media.path)
            wave = recording.at(self.rate)
            made = self._extracted(wave)
        self.kept.keep(media.digest, made)
        self.facts[media.digest] = (recording.rate, recording.channels, len(wave))
        return made

    def _extracted(self, wave: np.ndarray) -> dict[str, np.ndarray]:
        try:
            found = self.extractor(wave, sampling_rate=self.rate, return_tensors="np")
            made = {name: np.asarray(value[0]) for name, value in found.items()}
        except ValueError as error:  # a mel filter wants one window at least
            raise _too_short(len(wave) / self.rate) from error
        made = {n: v.astype(np.bool_ if n.endswith("mask") else np.float32) for n, v in made.items()}
        if not all(v.size and np.isfinite(v).all() for v in made.values()):
            raise _too_short(len(wave) / self.rate)
        return made

    # Batches

    def pad_source(self, inputs: Sequence[Mapping[str, Any]], *, left: bool = False) -> dict[str, Tensor]:
        """Recordings side by side, padded behind with the extractor's own value; a mask says where they end."""
        batch = {}
        for name in inputs[0]:
            mask = name.endswith("mask")
            arrays = [np.asarray(item[name]) for item in inputs]
            longest = np.max([array.shape for array in arrays], axis=0)
            table = np.full((len(arrays), *longest), 0 if mask else self.extractor.padding_value, arrays[0].dtype)
            for line, array in zip(table, arrays, strict=True):
                line[tuple(slice(n) for n in array.shape)] = array
            batch[name] = torch.from_numpy(table.astype(np.int64) if mask else table)
        return batch

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        if not self._apart(model, batch):
            return super().forward(model, batch)
        groups = _of_one_shape(batch["notes"])
        inputs = {name: value for name, value in batch["inputs"].items() if isinstance(value, Tensor)}
        parts = [_part(inputs, places, batch["notes"][places[0]]["shapes"]) for places in groups]
        if isinstance(self.architecture, Ctc):
            outputs = _each(model, parts)
        else:
            outputs = lm_head.forward(model, batch, groups=groups, run=lambda: _each(model, parts))
            if isinstance(outputs, lm_head.Selected):
                return outputs
        width = max(output.logits.shape[1] for output in outputs)
        logits = torch.cat([functional.pad(o.logits, (0, 0, 0, width - o.logits.shape[1])) for o in outputs])
        order = torch.tensor([place for places in groups for place in places]).argsort()
        return SimpleNamespace(logits=logits[order.to(logits.device)])

    def groups(self, model: Any, examples: Sequence[Example], device: str) -> list[list[int]]:
        groups = _of_one_shape([example.notes for example in examples])
        if len(groups) == 1 or isinstance(self.architecture, Ctc) or not self._apart_for(model, examples, device):
            return super().groups(model, examples, device)  # a CTC model writes by one call of `forward`
        return groups

    def _apart_for(self, model: Any, examples: Sequence[Example], device: str) -> bool:
        inputs = self.pad([e.inputs for e in examples])
        moved = {name: value.to(device) for name, value in inputs.items()}
        return self._apart(model, {"inputs": moved, "notes": [e.notes for e in examples]})

    def _apart(self, model: Any, batch: Mapping[str, Any]) -> bool:
        """Whether recordings of several lengths must not share this batch."""
        if len(_of_one_shape(batch["notes"])) == 1:
            return False
        inner = getattr(model, "module", model)
        if inner not in self.padding:
            self.padding[inner] = self._padding_matters(inner, batch)
        return self.padding[inner]

    def _padding_matters(self, model: Any, batch: Mapping[str, Any]) -> bool:
        """Whether the model's output changes where a recording is padded: it has no mask, or the mask is not enough.

        Measured on the batch's longest recording, cut to several lengths, alone and in twice the room. Eval mode, no
        gradient, full precision, the random state untouched.
        """
        shapes = [note["shapes"] for note in batch["notes"]]
        masks = [name for name in shapes[0] if name.endswith("mask")]
        if not masks:
            return True
        sizes = [shape[masks[0]][0] for shape in shapes]
        longest = max(range(len(sizes)), key=sizes.__getitem__)
        whole = {k: v[longest : longest + 1] for k, v in batch["inputs"].items() if isinstance(v, Tensor)}
        whole = {k: v[:, : sizes[longest]] if k in shapes[0] else v for k, v in whole.items()}
        step = sizes[longest] // max(1, self.frames(sizes[longest])) + 1
        tried = [size for k in range(PROBES) if self.frames(size := sizes[longest] - k * step) > 0]
        kind = next(iter(whole.values())).device.type
        precisely = torch.autocast(kind, enabled=False), torch.backends.cudnn.flags(allow_tf32=False)
        with in_eval_mode(model), torch.no_grad(), precisely[0], precisely[1]:
            return any(self._differs(model, whole, shapes[0], size) for size in tried)

    def _differs(self, model: Any, whole: Mapping[str, Tensor], known: Mapping[str, Any], size: int) -> bool:
        alone = {k: v[:, :size] if k in known else v for k, v in whole.items()}
        roomy = dict(alone)
        for name in known:
            fill = 0 if name.endswith("mask") else float(self.extractor.padding_value)
            room = alone[name].new_full((1, size, *alone[name].shape[2:]), fill)
            roomy[name] = torch.cat([alone[name], room], 1)
        a, b = model(**alone).logits, model(**roomy).logits
        if isinstance(self.architecture, Ctc):
            mask = next(v for k, v in alone.items() if k.endswith("mask"))
            n = self.frames(int(mask.sum()))
            a, b = a[:, :n], b[:, :n]
        return bool((a - b).abs().max() > TOLERANCE * a.abs().max())

    # Scores

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        table = [
            [
                *_errors(" ".join(words(gold)), " ".join(words(value))),
                *_errors(normalised(gold), normalised(value), characters=True),
            ]
            for value, gold in zip(values, golds, strict=True)
        ]
        return np.array(table, dtype=np.float64).reshape(len(table), 4)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        sums = np.asarray(sums, dtype=np.float64)
        return {"wer": sums[..., 0] / np.maximum(sums[..., 1], 1), "cer": sums[..., 2] / np.maximum(sums[..., 3], 1)}

    def details(self, sums: np.ndarray) -> dict[str, Any]:
        return {"normaliser": NORMALISER}

    def row_score(self, value: Any, gold: Any) -> float:
        """The row's share of words that are right: 1 − WER, and 0 where there are more errors than words."""
        return max(0.0, 1.0 - float(self.scores(self.statistics([value], [gold])[0])["wer"]))


def _too_short(seconds: float) -> Unreadable:
    found = f"{seconds * 1000:.0f} ms of sound, of which the model makes nothing"
    return Unreadable("recording too short", found, "a longer recording", "record it again, or delete the row")


def normalised(text: str) -> str:
    """NFC, lower case, no punctuation (Unicode's classes P), one space between words."""
    kept = (c for c in unicodedata.normalize("NFC", text).lower() if not unicodedata.category(c).startswith("P"))
    return " ".join("".join(kept).split())


def words(text: str) -> list[str]:
    """The words that WER counts; Chinese by character."""
    return apart(normalised(text)).split()


def _errors(right: str, heard: str, *, characters: bool = False) -> tuple[int, int]:
    """Substitutions, deletions and insertions of words (or characters), and how many are right; by jiwer."""
    import jiwer

    size = len(right) if characters else len(right.split())
    if not right or not heard:  # nothing to align
        return max(size, len(heard) if characters else len(heard.split())), size
    found = (jiwer.process_characters if characters else jiwer.process_words)(right, heard)
    return found.substitutions + found.deletions + found.insertions, size


def _of_one_shape(notes: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Places in a batch, those together whose recordings have one length."""
    groups: dict[Any, list[int]] = {}
    for place, note in enumerate(notes):
        groups.setdefault(tuple(sorted(note["shapes"].items())), []).append(place)
    return list(groups.values())


def _part(inputs: Mapping[str, Tensor], places: Sequence[int], shapes: Mapping[str, Any]) -> dict[str, Tensor]:
    """The batch's rows at `places`, their padding cut off."""
    chosen = {name: value[torch.tensor(places, device=value.device)] for name, value in inputs.items()}
    return {n: v[(slice(None), *(slice(s) for s in shapes[n]))] if n in shapes else v for n, v in chosen.items()}


def _each(model: Any, parts: Sequence[Mapping[str, Tensor]]) -> list[Any]:
    """The model's outputs for each part, inside one call of it: DDP waits for as many calls on every process."""
    inner = getattr(model, "module", model)
    own, forward = "forward" in vars(inner), inner.forward
    inner.forward = lambda parts: [forward(**part) for part in parts]
    try:
        outputs: list[Any] = model(parts=list(parts))
    finally:
        if own:
            inner.forward = forward
        else:
            del inner.forward
    return outputs
