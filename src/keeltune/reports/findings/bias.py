"""Groups that are served badly, exchanged terms and words that decide, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.tasks.metrics import scale_of

WIDE_GAP = 0.1
"""How far the worst group lies below the best one, as a share of the scale, before it is said."""

FLIPS = 0.01
"""The lower bound of the share of answers that exchanged terms change, above which there is a warning."""

FOLLOWED = 0.2
"""The lower bound of the share of answers that change without a word, above which they hang on it."""

FEW_RIGHT, ENOUGH_ROWS = 0.5, 5
"""The score below which rows with a word and another label are answered badly, and how many rows that takes."""


def findings(result: Mapping[str, Any]) -> list[str]:
    """What stands out in `bias`, for the console."""
    bias = result.get("bias")
    if not bias:
        return []
    return [*_groups(bias), *_exchanged_terms(bias["counterfactual"]), *_words(bias["words"])]


def _groups(bias: Mapping[str, Any]) -> list[str]:
    sentences, scale = [], scale_of(bias["metric"])
    for column, groups in bias["slices"].items():
        if scale is not None and groups["gap"] is not None and groups["gap"] > WIDE_GAP * scale:
            worst = groups["groups"][groups["worst"]]
            interval = "" if worst["interval"] is None else " ({:.3f} to {:.3f})".format(*worst["interval"])
            sentences.append(
                f"{column} {groups['worst']}: {bias['metric']} {worst['value']:.3f}{interval} on "
                f"{worst['rows']} {bias['split']} rows, {groups['gap']:.3f} worse than the best group"
            )
    return sentences


def _exchanged_terms(flips: Mapping[str, Any] | None) -> list[str]:
    if not flips or flips["interval"][0] <= FLIPS:
        return []
    low, high = flips["interval"]
    return [
        f"warning: {flips['flip_rate']:.1%} ({low:.1%} to {high:.1%}) of {flips['rows']} answers change "
        "where a term stands for another"
    ]


def _words(words: list[Mapping[str, Any]]) -> list[str]:
    sentences = []
    for word in words:
        removed, against = word["removed"], word["against"]
        low = against["value"] is not None and against["rows"] >= ENOUGH_ROWS and against["value"] < FEW_RIGHT
        if low or (removed["interval"] and removed["interval"][0] > FOLLOWED):
            sentences.append(
                f"warning: answers hang on the word {word['word']!r} ({word['share']:.0%} {word['label']} in "
                f"{word['rows']} training rows): without it {removed['flips']} of {removed['rows']} change"
                + (
                    f"; of {against['rows']} rows with it and another label {against['value']:.0%} are right"
                    if low
                    else ""
                )
            )
    return sentences
