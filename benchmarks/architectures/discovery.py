"""Every architecture of the installed transformers that a task can be given, from transformers' own mappings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import transformers

from keeltune.utils import registry

TASKS = (
    "text-classification", "semantic-role-labeling", "question-answering", "summarization", "text-generation",
    "image-captioning", "speech-recognition",
)  # fmt: skip
"""Sentiment analysis is a text classification, and translation a summarization, with other columns."""


@dataclass(frozen=True)
class Cell:
    """One task on one architecture: `config_class` is transformers' own, `auto_model` the class that loads it."""

    task: str
    architecture: str
    config_class: type[Any]
    auto_model: str

    @property
    def name(self) -> str:
        return f"{self.task}/{self.architecture}"


def cells(tasks: Sequence[str] = TASKS) -> Iterator[Cell]:
    """A new architecture of transformers is here as soon as its mapping names it."""
    for task in tasks:
        seen: set[str] = set()
        for auto_model in registry.find("tasks", task).auto_models:
            for config_class in getattr(transformers, auto_model)._model_mapping:
                kind = config_class.model_type
                if kind not in seen:  # the first class of a task's that serves it is the one that is used
                    seen.add(kind)
                    yield Cell(task, kind, config_class, auto_model)
