from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import count, pairwise
from typing import Any

import numpy as np
from torch import Tensor

from keeltune.data import audio
from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.data.media import Media, Unreadable
from keeltune.models import languages, positions
from keeltune.models.whisper import as_written, is_whisper
from keeltune.objective.predictions import IGNORED
from keeltune.tasks.common.batches import shapes, to_device
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.listening import Listening
from keeltune.tasks.common.padding_effect import groups_of_one_length
from keeltune.tasks.common.recording_padding import RecordingPadding
from keeltune.tasks.common.recordings import Recordings, too_short
from keeltune.tasks.common.segments import column_faults, segment_faults, segment_parts
from keeltune.tasks.common.spoken_text import SpokenText
from keeltune.tasks.families.text_generation import TextGeneration
from keeltune.tasks.metrics.character_error_rate import CharacterErrorRate
from keeltune.tasks.metrics.word_error_rate import WordErrorRate
from keeltune.utils.errors import shown
from keeltune.utils.text import together


class SpeechRecognition(TextGeneration):
    """What is said in a recording, by an encoder-decoder that writes it or by a CTC model that spells it.

    Metrics: WER and CER, 0 and up, less is better, of normalised texts (`metrics/word_error_rate.py`).

    A recording is read at its own rate, as one channel, and resampled to the rate that the model hears. One that is
    longer than what a model hears at once (Whisper's 30 s) is read in parts, cut where it is quietest; its answer is
    that of all parts. To be learnt, each part needs its own text: the row's `segments` (start and end in seconds,
    text), else the model shares out the transcript by what it hears (`common/transcripts.py`). Recordings of several
    lengths share a batch where the model's output does not depend on the padding behind them, which is measured;
    elsewhere those of one length run together.
    The language of Whisper is the row's `language`, the recipe's, or what the model hears.
    """

    auto_models = ("AutoModelForSpeechSeq2Seq", "AutoModelForCTC")
    pipeline = "automatic-speech-recognition"
    reads = "sound"
    accepts_languages = True
    scored_by = (WordErrorRate, CharacterErrorRate)
    columns = (
        Column("audio", "audio"),
        Column("text", "text", label=True),
        Column("language", "anything", required=False),
        Column("segments", "anything", required=False, label=True),
    )

    def setup(self) -> None:
        super().setup()
        self.listening = Listening()
        self.recordings = Recordings(self.processor, self.settings.config, self.settings.auto_model)
        if self.settings.config is None:
            return
        decodes = self.settings.auto_model and not self.architecture.framewise and not self.architecture.reads_prompt
        bound = positions.target_positions(self.recordings.shape) if decodes else None
        if bound:  # nothing longer can be written, nor learnt
            room = max(1, bound - 1 - len(self.architecture.given))
            longest = min(n for n in (self.settings.target_max_length, room) if n is not None)
            new = min(self.settings.max_new_tokens, room)
            self.settings = replace(self.settings, max_new_tokens=new, target_max_length=longest)

    def recipe_faults(self) -> list[Fault]:
        audio.library()
        faults: list[Fault] = []
        config = self.settings.config
        known = "an encoder-decoder such as Whisper, or a CTC model such as wav2vec2"
        if self.settings.prompt is not None:
            found, fix = f"a prompt, and {config.model_type}, which reads sound alone", "leave it out"
            faults.append(Fault("prompt", "prompt not read", found, "no prompt", fix))
        if self.architecture.reads_prompt:
            kind = f"{config.model_type}, which reads sound inside a prompt"
            faults.append(Fault("model", "sound in a prompt", kind, known, "take a model of another kind"))
        elif self.architecture.framewise and self.tokenizer.pad_token_id is None and config.pad_token_id is None:
            kind = f"{config.model_type}, whose tokenizer has no padding token"
            expected = "one: a CTC model chooses it where there is no letter"
            faults.append(Fault("model", "no blank", kind, expected, "name it in tokenizer_config.json (pad_token)"))
        elif self.architecture.framewise and self.recordings.frame_counter is None:
            kind = f"{config.model_type}, which does not say how many frames it makes of a recording"
            faults.append(Fault("model", "unknown frames", kind, known, "take a model of another kind"))
        if self.settings.max_length is not None:
            faults.append(
                Fault("max_length", "sound is not cut", shown(self.settings.max_length),
                      "no max_length: a recording that is cut does not fit its text", "leave it out")
            )  # fmt: skip
        faults += self.language_faults()
        bins, made = getattr(config, "num_mel_bins", None), getattr(self.extractor, "feature_size", None)
        if config.model_type == "whisper" and bins != made:
            found, expected = f"an extractor of {made} mel bins", f"the model's own {bins} (num_mel_bins)"
            fix = "save the model's own feature extractor there (preprocessor_config.json)"
            faults.append(Fault("model", "sound of another form", found, expected, fix))
        return faults

    # Rows

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterable[Fault]:
        try:
            audio.read(row.fields["audio"])
        except Unreadable as error:
            return [Fault("audio", error.kind, f"{row.fields['audio']}: {error.found}", error.expected, error.fix)]
        return list(column_faults(row, labelled=labelled))

    def row_faults(self, row: Row, examples: Sequence[Example]) -> Iterator[Fault]:
        """Texts that the model cannot write, or not of this recording."""
        media: Media = row.fields["audio"]
        _, _, samples = self.recordings.facts[media.digest]
        rate = self.recordings.rate
        name, told = row.fields.get("language"), self.architecture.language_ids
        if name and self.architecture.tells_languages and languages.spelt(name, told) is None:
            fix = f"write its name or code{languages.nearest_language(name, told)}, or leave it out"
            yield Fault("language", "unknown language", shown(name), f"one of the model's {len(told)} languages", fix)
        yield from segment_faults(self.recordings, row, samples / rate)
        heard = (e.predictions if self.architecture.framewise else e.length - len(e.targets) for e in examples)
        if not all(heard):
            short = too_short(samples / rate)
            yield Fault("audio", short.kind, f"{media}: {short.found}", short.expected, short.fix)
            return
        text = row.fields.get("text")
        if text is None:
            return
        labels = [i for example in examples for i in example.notes.get("labels", example.targets) if i != IGNORED]
        if unknown := self.unknown_letters(str(text), labels):
            listed = ", ".join(map(repr, unknown[:20]))
            known, fix = "letters of the tokenizer's vocabulary", "write them otherwise (5 as five), or leave them out"
            yield Fault("text", "unknown letters", f"{listed} in {shown(str(text))}", known, fix)
        if self.architecture.framewise:
            for example in examples:
                repeats = sum(a == b for a, b in pairwise(labels))
                needed, frames = len(labels) + repeats, example.predictions
                if needed > frames:
                    seconds = samples / rate
                    found = f"{len(labels)} letters and {repeats} repeats for {frames} frames ({seconds:.2f} s)"
                    yield Fault("text", "text longer than its recording", found, f"at least {needed} frames",
                                "check that the text belongs to the recording, or delete the row")  # fmt: skip

    def unknown_letters(self, text: str, labels: Sequence[int]) -> list[str]:
        """The letters of a text that the tokenizer has no token for, and tokens in it that are no text."""
        tokenizer, unknown = self.tokenizer, self.tokenizer.unk_token_id
        letters: list[str] = []
        if self.architecture.blank in labels:
            letters.append(str(tokenizer.pad_token))
        if unknown is not None and unknown in labels and unknown not in self.architecture.end:
            written = [c for c in dict.fromkeys(self.spelt(text)) if not c.isspace()]
            lost = [c for c in written if unknown in tokenizer(c, add_special_tokens=False)["input_ids"]]
            letters += lost or [str(tokenizer.unk_token)]
        return letters

    def source(self, row: Row) -> str:
        return ""

    def target(self, row: Row) -> str:
        return self.spelt(str(row.fields["text"]))

    def spelt(self, text: str) -> str:
        """A text as the model writes it: Whisper with a blank before its first word, a CTC model in its own letters
        (one space between words, and the other case where it has but that)."""
        if is_whisper(self.tokenizer):
            return as_written(text)
        if not self.architecture.framewise or not hasattr(self.tokenizer, "word_delimiter_token"):
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
        """Of a long recording an example of each part whose words are known; of all parts, without labels and to be
        listened to (`listen`), where only the model can tell them."""
        parts = self.recordings.parts(row)
        if not labelled or len(parts) == 1:
            return self.encode_scored(row, labelled=labelled)
        texts: Sequence[str | None] | None
        if row.fields.get("segments"):
            parts, texts = segment_parts(self.recordings, row)
        else:
            texts = self.listening.texts.get((row.fields["audio"].digest, str(row.fields["text"])))
        if texts is None:
            examples = self.encode_scored(row)
            return [replace(e, notes={**e.notes, "open": True, "transcript": row.fields["text"]}) for e in examples]
        return [self._example(row, *part) for part in zip(count(), parts, texts, strict=False) if part[2] is not None]

    def encode_scored(self, row: Row, *, labelled: bool = True) -> list[Example]:
        """As it is answered: a long recording in parts, cut where it is quietest, of which none has a text, nor a
        loss."""
        parts = self.recordings.parts(row)
        if len(parts) > 1:
            return [self._example(row, number, part, None) for number, part in enumerate(parts)]
        return [self._example(row, None, parts[0], str(row.fields["text"]) if labelled else None)]

    def _example(self, row: Row, number: int | None, part: Media, text: str | None) -> Example:
        """The example of a recording (`number`: of this part of it), with its text where that is to be learnt."""
        key = row.key if number is None else f"{row.key}#{number}"
        whole, row = row.fields["audio"].digest, replace(row, fields={**row.fields, "audio": part}, key=key)
        shapes = {name: np.shape(value) for name, value in self.recordings.read(row).items()}
        example = self.architecture.encode(row, None if text is None else self.spelt(text))
        spoken = self.spoken(row)
        notes = {"digest": whole, "shapes": shapes, "language": spoken, "open": self.told.heard and spoken is None}
        return replace(example, notes={**example.notes, **notes})

    # What only the model can say

    def spoken(self, row: Row) -> str | None:
        if not self.architecture.tells_languages:
            return None
        if name := row.fields.get("language"):
            return languages.spelt(name, self.architecture.language_ids)
        return self.listening.languages.get(getattr(row.fields["audio"], "whole", row.fields["audio"]).digest)

    def listen(self, model: Any, encoded: Sequence[Sequence[Example]], device: str) -> list[str]:
        for companion in self.companions.values():  # a language has one name in all Whispers
            companion.listening = self.listening  # type: ignore[attr-defined]
        rows = [examples for examples in encoded if any(e.notes.get("open") for e in examples)]
        return self.listening.listen(self.architecture, model, rows, device) if rows else []  # type: ignore[arg-type]

    def combine(self, predictions: Sequence[Prediction]) -> Prediction:
        """The answer to a recording of several parts: what is said in all of them."""
        if len(predictions) == 1:
            return predictions[0]
        text = together(" ".join(p.value for p in predictions if p.value))
        loss, labelled = sum(p.loss for p in predictions), sum(p.count for p in predictions)
        return Prediction(text, None, loss, labelled, cut=any(p.cut for p in predictions))

    def with_target(self, row: Row, value: Any) -> Row:
        kept = {name: field for name, field in row.fields.items() if name != "segments"}  # which are the old text's
        return super().with_target(replace(row, fields=kept), value)

    def notices(self, examples: Sequence[Example]) -> list[str]:
        digests = {e.notes["digest"] for e in examples if "digest" in e.notes}
        facts, heard = [self.recordings.facts[digest] for digest in digests], self.recordings.rate
        rates = Counter(rate for rate, _, _ in facts if rate != heard)
        notices = [
            f"{count} recordings of {rate} Hz are resampled to the {heard} Hz that the model hears"
            for rate, count in sorted(rates.items())
        ]
        if mixed := sum(channels > 1 for _, channels, _ in facts):
            notices.append(f"{mixed} recordings of several channels are averaged to one")
        letters = "".join(token for token in self.vocabulary if len(token) == 1)
        if self.architecture.framewise and letters.isupper() != letters.islower():
            notices.append(
                f"the model spells in {'upper' if letters.isupper() else 'lower'} case, and so are the texts"
            )
        return [*super().notices(examples), *notices, f"WER and CER are of normalised texts: {self._normaliser}"]

    @property
    def _normaliser(self) -> str:
        return SpokenText(self.settings).name(self.settings.language)

    # What the model hears

    @property
    def extractor(self) -> Any:
        """What turns sound into numbers."""
        return self.recordings.extractor

    def source_inputs(self, row: Row) -> tuple[dict[str, Any], int, bool]:
        """What the extractor makes of a recording, the frames that the encoder makes of it, and whether it was cut."""
        return self.recordings.inputs(row)

    def pad_source(self, inputs: Sequence[Mapping[str, Any]], *, left: bool = False) -> dict[str, Tensor]:
        return self.recordings.pad(inputs)

    @cached_property
    def padding_effect(self) -> RecordingPadding:
        return RecordingPadding(self.recordings, self.architecture.framewise)

    def groups(self, model: Any, examples: Sequence[Example], device: str) -> list[list[int]]:
        groups = groups_of_one_length([shapes(example) for example in examples])
        if len(groups) == 1 or self.architecture.framewise or not self._apart(model, examples, device):
            return super().groups(model, examples, device)  # a CTC model writes by one call of `forward`
        return groups

    def _apart(self, model: Any, examples: Sequence[Example], device: str) -> bool:
        batch = {"inputs": self.pad([e.inputs for e in examples]), "shapes": [shapes(e) for e in examples]}
        return self.padding_effect.matters(model, to_device(batch, device))
