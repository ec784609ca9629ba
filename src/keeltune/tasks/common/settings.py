"""What a task is built with besides its processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What a task is built with besides its processor: the recipe's choices, and what the model says of itself."""

    labels: Sequence[str] = ()
    max_length: int | None = None
    multi_label: bool = False
    class_weights: Mapping[str, float] | None = None
    config: Any = None
    auto_model: str = ""
    target_max_length: int | None = None
    prompt: str | None = None
    languages: tuple[str, str] | None = None
    beams: int = 1
    max_new_tokens: int = 64
    metrics: Sequence[str] = ()
    metric: str | None = None
