"""Recordings as one model reads them: waves or features, how many frames its encoder makes of them, and batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keeltune.data import audio
from keeltune.data.audio_parts import Part, part_of, quiet_spans
from keeltune.data.dataset import Row, in_row
from keeltune.data.media import ArrayCache, Decoded, Media, Unreadable
from keeltune.models import processors, shapes

LENGTHS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")
"""How the encoders of transformers call the method that counts their output frames."""


class Recordings:
    """Reads the column `audio` of rows, at the rate that the model hears, as one channel; what it decoded is cached."""

    def __init__(self, processor: Any, config: Any, auto_model: str):
        self.processor, self.config, self.auto_model = processor, config, auto_model
        self.arrays = ArrayCache()
        self.facts: dict[str, tuple[int, int, int]] = {}
        """Of each recording by its digest: its rate in Hz, its channels, its samples at the model's rate."""
        self._frames: dict[int, int] = {}
        self._spans: dict[str, list[tuple[int, int]]] = {}
        self._last: tuple[str, np.ndarray] | None = None
        """The recording that was read last, of whose parts the next is wanted."""

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

    @cached_property
    def shape(self) -> Any:
        """The model without its weights."""
        return shapes.shape_of(self.config, self.auto_model)

    @cached_property
    def frame_counter(self) -> Any:
        """The method of the model, or of its encoder, that counts frames, if there is one. It needs no weight."""
        counters = (getattr(module, name, None) for module in self.shape.modules() for name in LENGTHS)
        return next((counter for counter in counters if counter is not None), None)

    def frames(self, length: int) -> int:
        """How many output frames the encoder makes of so many samples or frames; the very number where it says none."""
        if length not in self._frames:
            counter = self.frame_counter
            self._frames[length] = length if counter is None else max(0, int(counter(torch.tensor([length]))))
        return self._frames[length]

    def inputs(self, row: Row) -> tuple[dict[str, Any], int, bool]:
        """What the extractor makes of a recording, the frames that the encoder makes of it, and whether it was cut: it
        never is."""
        arrays, digest = self.read(row), row.fields["audio"].digest
        mask = next((value for name, value in arrays.items() if name.endswith("mask")), None)
        size = int(mask.sum()) if mask is not None else max(next(iter(arrays.values())).shape)
        inputs = {name: Decoded(digest, name, partial(self._array, row, name)) for name in arrays}
        return inputs, self.frames(size), False

    def parts(self, row: Row) -> list[Media]:
        """The recording itself; or its parts, cut where it is quietest, where it is longer than the window."""
        media: Media = row.fields["audio"]
        if self.window is None or isinstance(media, Part):
            return [media]
        if media.digest not in self._spans:
            wave = self._wave(row)
            fits = len(wave) <= self.window
            self._spans[media.digest] = [] if fits else quiet_spans(wave, self.rate, self.window)
        return [part_of(media, span) for span in self._spans[media.digest]] or [media]

    def read(self, row: Row) -> Mapping[str, np.ndarray]:
        """A recording as the model reads it: a wave [T], or mel features [T, D] or [D, T]; perhaps a mask [T]."""
        media: Media = row.fields["audio"]
        if (cached := self.arrays.get(media.digest)) is not None:
            return cached
        wave = self._wave(row)
        with in_row(row, "audio"):
            arrays = self._extracted(wave[slice(*media.span)] if isinstance(media, Part) else wave)
        self.arrays.keep(media.digest, arrays)
        return arrays

    def _wave(self, row: Row) -> np.ndarray:
        """The whole recording that a row's is, or is a part of, at the model's rate."""
        media: Media = row.fields["audio"]
        whole = media.whole if isinstance(media, Part) else media
        if self._last is None or self._last[0] != whole.digest:
            with in_row(row, "audio"):
                recording = audio.read(whole)
                wave = recording.at(self.rate)
            self.facts[whole.digest] = (recording.rate, recording.channels, len(wave))
            self._last = whole.digest, wave
        return self._last[1]

    def _array(self, row: Row, name: str) -> np.ndarray:
        return self.read(row)[name]

    def _extracted(self, wave: np.ndarray) -> dict[str, np.ndarray]:
        try:
            features = self.extractor(wave, sampling_rate=self.rate, return_tensors="np")
            arrays = {name: np.asarray(value[0]) for name, value in features.items()}
        except ValueError as error:  # a mel filter wants one window at least
            raise too_short(len(wave) / self.rate) from error
        arrays = {n: v.astype(np.bool_ if n.endswith("mask") else np.float32) for n, v in arrays.items()}
        if not all(v.size and np.isfinite(v).all() for v in arrays.values()):
            raise too_short(len(wave) / self.rate)
        return arrays

    def pad(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
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


def too_short(seconds: float) -> Unreadable:
    """Of a recording of which the model makes no frame."""
    found = f"{seconds * 1000:.0f} ms of sound, of which the model makes nothing"
    return Unreadable("recording too short", found, "a longer recording", "record it again, or delete the row")
