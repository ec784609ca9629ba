"""Answers that were written to their most tokens without coming to an end, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.utils.messages import Message, joined


def findings(generation: Mapping[str, Any] | None) -> list[str]:
    """What `generation` of `result.json` says of its `cut`: a warning where an answer was cut, of all splits together.

    `cut`: {split: [answers that were cut, answers]}, of the final weights.
    """
    cut = {split: counts for split, counts in ((generation or {}).get("cut") or {}).items() if counts[0]}
    if generation is None or not cut:
        return []
    parts = [
        Message("{cut} of {all} answers of {split}", cut=n, all=rows, split=Message(split))
        for split, (n, rows) in cut.items()
    ]
    said = Message(
        " reached {most} tokens (generation.max_new_tokens) without coming to their end: they are scored as they "
        "stand; raise it, or train on",
        most=generation["settings"]["max_new_tokens"],
    )
    return [joined([Message("warning: "), joined(parts, ", "), said])]
