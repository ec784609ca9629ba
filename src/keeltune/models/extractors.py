"""What turns pictures or sound into numbers: held against what it says of itself, before a file is read with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keeltune.models.model_files import or_refuse
from keeltune.utils.errors import Problem, UserError, shown, visible

RATES, SECONDS = (1_000, 1_000_000), 600
"""Samples a second that a model may hear; the longest window of sound."""

SIDE = 8_192
"""Points of a picture's side that a model may read."""


def check_extractor(extractor: Any, reads: str, source: str, where: str, field: str) -> None:
    """UserError for settings that make no numbers of a plain picture's or a second's kind: transformers takes any."""
    faults = _sound_faults(extractor) if reads == "sound" else _picture_faults(extractor)
    for name, value, expected in faults:
        found = f"{shown(source)}: preprocessor_config.json says {name}: {visible(repr(value))}"
        raise UserError(Problem(where, field, found, expected, "correct it, or copy the model folder again"))
    if reads == "sound":
        or_refuse(lambda: _hear(extractor), source, where, field)


def _hear(extractor: Any) -> None:
    """The numbers of a second of noise; ValueError where they are none. Not of silence: some divide by its spread."""
    noise = np.random.default_rng(0).standard_normal(int(extractor.sampling_rate), dtype=np.float32) / 10
    made = extractor(noise, sampling_rate=extractor.sampling_rate, return_tensors="np")
    for name, value in dict(made).items():
        if np.asarray(value).size == 0:
            raise ValueError(f"preprocessor_config.json makes no {name} of a second of sound")


def _sound_faults(extractor: Any) -> Iterator[tuple[str, Any, str]]:
    rate: Any = getattr(extractor, "sampling_rate", None)
    if not _is_count(rate) or not RATES[0] <= rate <= RATES[1]:
        yield "sampling_rate", rate, f"samples a second, {RATES[0]} to {RATES[1]}"
        return
    window: Any = getattr(extractor, "n_samples", None)
    if window is not None and (not _is_count(window) or window > rate * SECONDS):
        yield "n_samples", window, f"samples of at most {SECONDS} seconds"
    padding = getattr(extractor, "padding_value", 0.0)
    if not _is_number(padding):
        yield "padding_value", padding, "a number"
    for name in ("feature_size", "hop_length", "n_fft", "num_mel_bins", "chunk_length"):
        value = getattr(extractor, name, None)
        if value is not None and (not _is_number(value) or not 0 < value <= 1_000_000):
            yield name, value, "a number above 0"


def _picture_faults(extractor: Any) -> Iterator[tuple[str, Any, str]]:
    spread = getattr(extractor, "image_std", None)
    if isinstance(spread, list | tuple) and not all(_is_number(value) and value > 0 for value in spread):
        yield "image_std", spread, "numbers above 0, by which points are divided"
    for name in ("size", "crop_size", "pad_size"):
        value = getattr(extractor, name, None)
        if value is None:
            continue
        try:
            sides = dict(value)
        except TypeError:  # one number for both
            sides = {"height": value}
        for side, points in sides.items():
            most = SIDE if side in ("height", "width") else SIDE * SIDE  # Qwen2-VL's edges count all points
            if points is not None and (not _is_number(points) or not 0 < points <= most):
                yield name, sides, f"sides of 1 to {SIDE} points"
                return


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
