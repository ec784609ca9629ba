"""The contract of a task: from a row of data to predictions, and from predictions to a score.

    row -> encode -> examples -> collate -> batch -> model(**batch["inputs"]) -> rows -> cross_entropy | decode -> score

A family (`families.py`) supplies targets, aligned rows, cross-entropy and decoding once; a task file adds columns,
encoding and metric. Labels never enter a model: its own loss would be a mean, and the wrong one.

Shapes: B examples of a batch, N predictions, C choices, K statistics a row, L labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from keeltune.data import Column, Row
from keeltune.rows import Rows


@dataclass(frozen=True)
class Settings:
    """What a task is built with besides its processor: the recipe's choices and the model's label names."""

    labels: Sequence[str] = ()
    max_length: int | None = None
    multi_label: bool = False
    class_weights: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Example:
    """One encoded row (or one stride of it): what the model reads, and what it should predict.

    `targets` and `weights` hold one entry a prediction, IGNORED where there is no label. `anchored` tells whether the
    row carries D; that is a property of its stream. `others` holds the inputs made for references that read the same
    row in their own encoding, by the name of their batch entry.
    """

    inputs: Mapping[str, Any]
    targets: Sequence[int]
    weights: Sequence[float]
    key: str
    length: int
    truncated: bool = False
    anchored: bool = False
    others: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """The model's answer to one example, and its loss: Σ CE in nats over `count` labelled predictions."""

    value: Any
    probabilities: Mapping[str, float] | None
    loss: float
    count: float


class Task(ABC):
    """One application."""

    columns: ClassVar[tuple[Column, ...]]
    """The columns a row must have, under our names."""

    auto_model: ClassVar[str]
    """The `transformers` class that loads a model with this task's head."""

    def __init__(self, processor: Any, settings: Settings, companions: Mapping[str, Task] | None = None):
        self.processor = processor
        self.settings = settings
        self.companions = dict(companions or {})
        """The same task for references that read a row in an encoding of their own, by their batch entry's name."""
        self.setup()

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """The names that `scores` returns, the primary one first."""

    @abstractmethod
    def setup(self) -> None:
        """What the family derives from its processor and settings."""

    @abstractmethod
    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        """A row as examples, keyed by the row's key (+ index where there are several). Pure: no randomness."""

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Examples as a batch: `inputs`, `targets` [N], `weights` [N], `anchored` [N] bool, `keys`, and the others."""

    @abstractmethod
    def pad(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Encoded inputs of uneven length as a model's tensors [B, S]."""

    @abstractmethod
    def rows(self, outputs: Any, batch: Mapping[str, Any], order: Sequence[int] | None = None) -> Rows:
        """A model's outputs as N predictions, aligned with the targets (shift, spans and frames live here only).

        `order[i]` is the place of our label i among the model's own, for a reference with the same names otherwise.
        """

    @abstractmethod
    def cross_entropy(self, rows: Rows, batch: Mapping[str, Any]) -> Tensor:
        """Σ w · −log P(y|x): a sum in nats, never a mean."""

    @abstractmethod
    def decode(self, rows: Rows, batch: Mapping[str, Any]) -> list[Prediction]:
        """The answers, one an example."""

    @abstractmethod
    def gold(self, row: Row) -> Any:
        """The right answer of a row, in the form of `Prediction.value`."""

    @abstractmethod
    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        """Statistics per row [rows, K] whose sum gives the score, so that a bootstrap is one matrix product."""

    @abstractmethod
    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Summed statistics [..., K] as metrics [...], each in its unit (scores 0..1)."""

    @abstractmethod
    def details(self, sums: np.ndarray) -> dict[str, Any]:
        """What is worth more than a number: `{"by_label": {...}}`, from summed statistics [K]."""

    @abstractmethod
    def row_score(self, value: Any, gold: Any) -> float:
        """One row's own score, 0..1."""
