"""What a row becomes (`Example`), and what a model answers to it (`Prediction`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keeltune.objective.predictions import IGNORED

NOTE_SAMPLE = "sample"
"""The note of an example whose text the student samples in the step that the example is in."""


@dataclass(frozen=True)
class Example:
    """One encoded row (or one part of it: a stride, a picture with one caption).

    inputs     what the model reads, by the names of its `forward`
    targets    one entry a prediction, IGNORED where there is no label; for CTC the labels of the whole text
    weights    one entry a target: what its cross-entropy is multiplied by
    predicted  which of the model's output positions are predictions; empty where the task's head has just one
    count      N, where it is not the number of targets (CTC: frames)
    length     what the plan groups by: tokens or frames of input and target
    anchored   whether it carries D, which is a property of its stream
    others     the same row as references read it that have an encoding of their own, by the name of their batch entry
    notes      what decoding needs to know of the row, by names of the family's own
    """

    inputs: Mapping[str, Any]
    targets: Sequence[int]
    weights: Sequence[float]
    key: str
    length: int
    predicted: Sequence[bool] = ()
    count: int | None = None
    truncated: bool = False
    anchored: bool = False
    others: Mapping[str, Example] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def predictions(self) -> int:
        """N of this example."""
        return len(self.targets) if self.count is None else self.count

    @property
    def labelled(self) -> float:
        """What it adds to n_CE: the weights of its labelled targets."""
        return float(sum(w for w, t in zip(self.weights, self.targets, strict=True) if t != IGNORED))


@dataclass(frozen=True)
class Prediction:
    """The model's answer to one example, and its loss: Σ CE in nats over `count` labelled predictions.

    `score` ranks the answers of several examples of one row (the strides of a long text). `start` is the character at
    which an answer begins that is a part of the row's text. `cut`: it was written to the most tokens, without an end.
    `part`: what `combine` makes the row's answer of, where one example alone has none. `ids`: the tokens of a text
    that was written token by token, its end among them.
    """

    value: Any
    probabilities: Mapping[str, float] | None
    loss: float
    count: float
    score: float = 0.0
    start: int | None = None
    cut: bool = False
    part: Any = None
    ids: tuple[int, ...] | None = None
