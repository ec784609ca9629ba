"""The contract of a task: from a row of data to predictions, and from predictions to a score.

    row -> encode -> examples -> collate -> batch -> forward -> rows -> cross_entropy | predict -> score

A family (`keeltune/families/`) supplies targets, aligned rows, cross-entropy and decoding once; a task file adds
columns, encoding and metric. Labels never enter a model: its own loss would be a mean, and the wrong one.

Shapes: B examples of a batch, N predictions, C choices, K statistics a row, L labels, S and T source and target tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED, PerSlice, Rows, cross_entropy, sliced_cross_entropy
from keeltune.utils.errors import Problem, UserError

DRAWN = "drawn"
"""The note of an example whose text the student is to draw in the step that it is in."""

Autocast = Callable[[], AbstractContextManager[Any]]


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


@dataclass(frozen=True)
class Example:
    """One encoded row (or one part of it: a stride, a picture with one caption).

    inputs     what the model reads, by the names of its `forward`
    targets    one entry a prediction, IGNORED where there is no label; for CTC the labels of the whole text
    weights    one entry a target: what its cross-entropy is multiplied by
    places     which of the model's output positions are predictions; empty where the task's head has just one
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
    places: Sequence[bool] = ()
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

    `merit` ranks the answers of several examples of one row (the strides of a long text). `start` is the character at
    which an answer begins that is a part of the row's text.
    """

    value: Any
    probabilities: Mapping[str, float] | None
    loss: float
    count: float
    merit: float = 0.0
    start: int | None = None


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row as a whole, though each of its columns is sound."""

    field: str
    kind: str
    found: str
    expected: str
    fix: str


def labelled_and_anchored(batch: Mapping[str, Any]) -> tuple[float, float]:
    """n_CE and n_D of a batch: the weights of its labelled targets, and its anchored predictions."""
    labelled = ((batch["targets"] != IGNORED) * batch["weights"]).sum()
    return float(labelled), float(batch["anchored"].sum())


class Task(ABC):
    """One application."""

    columns: ClassVar[tuple[Column, ...]]
    """The columns a row must have, under our names."""

    auto_models: ClassVar[tuple[str, ...]]
    """The `transformers` classes that load a model for this task; the first that knows the architecture does."""

    reads: ClassVar[Literal["text", "image", "sound"]] = "text"
    """What a row's input is made of, which says what processor a model needs."""

    choices: ClassVar[Literal["labels", "tokens", "positions"]] = "labels"
    """What a prediction chooses among. Labels fit a reference by name, however it reads the text; tokens and positions
    are the tokenizer's own, so a reference must have the very same."""

    whole_texts: ClassVar[tuple[str, ...]] = ()
    """Columns of text of which a part can be left out and the row still has an answer: one of the text as a whole."""

    generates: ClassVar[bool] = False
    """Whether an answer is written token by token: evaluation while training then looks at a subset."""

    separate_head: ClassVar[bool] = False
    """Whether the model is an encoder with a head of the task's own on it, beside which the head that `model` had can
    be kept (`objective.anchor_head`)."""

    accepts_languages: ClassVar[bool] = False
    """Whether the recipe's `languages` say from which language into which."""

    accepts_multi_label: ClassVar[bool] = False
    """Whether a row may have several labels (`data.multi_label`)."""

    pipeline: ClassVar[str | None] = None
    """What the hub calls the task (`pipeline_tag` of a model card); None where it has no name for it."""

    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "perplexity", "wer", "cer"})
    """Metrics whose smaller values are the better ones."""

    @property
    def draws(self) -> bool:
        """Whether a model of this task can draw texts of its own while it trains."""
        return False

    def __init__(self, processor: Any, settings: Settings, companions: Mapping[str, Task] | None = None):
        self.processor = processor
        self.settings = settings
        self.companions = dict(companions or {})
        """The same task for references that read a row in an encoding of their own, by their batch entry's name."""
        self.setup()

    @property
    def tokenizer(self) -> Any:
        """The part of the processor that reads and writes text."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """The names that `scores` returns, the primary one first."""

    @property
    def primary_sign(self) -> float:
        """+1 where more of the primary metric is better, −1 where less is."""
        return -1.0 if self.metrics[0] in self.lower_is_better else 1.0

    def setup(self) -> None:  # noqa: B027  (most tasks derive nothing)
        """What the family derives from its processor and settings."""

    def recipe_faults(self) -> Iterable[Fault]:
        """What this task, with this model, cannot do with its settings; `field` is the recipe's."""
        return ()

    # rows of the data

    @classmethod
    def labels_of(cls, row: Row) -> list[str]:
        """The label names that a row uses; none for a task without labels."""
        return []

    @classmethod
    def closed(cls, names: Sequence[str]) -> list[str]:
        """The label inventory that the names of the training rows span."""
        return list(names)

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterable[Fault]:
        """What is wrong with a row, beyond what its columns' kinds check one by one; not `labelled`: it is only read.

        Columns of labels that are not read may be there and hold anything.
        """
        return ()

    def row_faults(self, row: Row, examples: Sequence[Example]) -> Iterable[Fault]:
        """What is wrong with a row for this model, now that it is encoded: `examples` are what became of it."""
        return ()

    @abstractmethod
    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        """A row as examples, keyed by the row's key (+ index where there are several). Pure: no randomness."""

    def encode_for_all(self, row: Row, *, labelled: bool = True, scored: bool = False) -> list[Example]:
        """`encode` (`scored`: `encode_scored`), with the encodings of references that read the same row otherwise.

        Where predictions are tokens, both must be asked for the same ones: UserError for a row of which that is not so.
        """

        def by(reader: Task) -> list[Example]:
            return (reader.encode_scored if scored else reader.encode)(row, labelled=labelled)

        examples = by(self)
        for name, companion in self.companions.items():
            others = by(companion)
            if self.choices == "tokens" and [e.targets for e in others] != [e.targets for e in examples]:
                raise UserError(_other_targets(row))
            examples = [
                replace(example, others={**example.others, name: other})
                for example, other in zip(examples, others, strict=True)
            ]
        return examples

    def encode_scored(self, row: Row, *, labelled: bool = True) -> list[Example]:
        """A row as it is scored; differs from `encode` where training makes several examples of one question."""
        return self.encode(row, labelled=labelled)

    def notices(self, examples: Sequence[Example]) -> list[str]:
        """What users should know of the encoded training rows."""
        return []

    def mark(self, config: Any, examples: Sequence[Example]) -> None:  # noqa: B027  (most tasks need nothing)
        """Keeps in the model's configuration what answering must know of the encoded training rows."""

    # batches

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Examples as a batch: `inputs`, `targets` [N], `weights` [N], `anchored` [N] bool, `keys`, the others.

        `places` [B, T] bool marks the output positions that are the N predictions, row by row. `work` is what the
        forward pass reads: tokens, and slots (tokens and padding). `encoded` is what the examples say of n_CE and N,
        for the self-test.
        """
        counts = torch.tensor([e.predictions for e in examples])
        batch: dict[str, Any] = {
            "inputs": self.pad([e.inputs for e in examples]),
            "targets": torch.tensor([t for e in examples for t in e.targets], dtype=torch.long),
            "weights": torch.tensor([w for e in examples for w in e.weights], dtype=torch.float32),
            "anchored": torch.tensor([e.anchored for e in examples]).repeat_interleave(counts),
            "counts": counts,
            "keys": [e.key for e in examples],
            "notes": [e.notes for e in examples],
            "encoded": [sum(e.labelled for e in examples), sum(e.predictions for e in examples)],
            "work": [sum(e.length for e in examples), len(examples) * max(e.length for e in examples)],
        }
        if any(e.places for e in examples):
            batch["places"] = stack([e.places for e in examples], fill=False)
        for name, companion in self.companions.items():
            if name in examples[0].others:
                batch[name] = companion.collate([e.others[name] for e in examples])
        return batch

    @property
    def separable(self) -> bool:
        """Whether some rows of a batch have the same predictions alone as among the others: not places in a batch's
        longest row, and not where a reference reads rows otherwise and may lack some of a row's predictions."""
        return self.choices != "positions" and not self.companions

    def collate_anchored(self, examples: Sequence[Example]) -> dict[str, Any]:
        """`collate`; where some examples are not anchored, `anchored_batch` holds the anchored ones alone.

        The reference reads those, so that it is asked nothing of rows on which it is not compared.
        """
        held = [example for example in examples if example.anchored]
        batch = self.collate(examples)
        if not self.separable:
            return batch
        return batch if len(held) in (0, len(examples)) else {**batch, "anchored_batch": self.collate(held)}

    @abstractmethod
    def pad(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Encoded inputs of uneven length as a model's tensors [B, S]."""

    def counts(self, batch: Mapping[str, Any]) -> tuple[float, float]:
        """n_CE and n_D of a batch: its labelled predictions (their weights' sum), and its anchored ones."""
        return labelled_and_anchored(batch)

    # predictions

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        """The model's outputs. Families with a vocabulary head let the head see the predictions alone."""
        return model(**batch["inputs"])

    @abstractmethod
    def rows(self, outputs: Any, batch: Mapping[str, Any], order: Sequence[int] | None = None) -> Rows:
        """A model's outputs as N predictions, aligned with the targets (shift, spans and frames live here only).

        `order[i]` is the place of our label i among the model's own, for a reference with the same names otherwise.
        """

    def cross_entropy(self, rows: Rows, batch: Mapping[str, Any]) -> Tensor:
        """Σ w · −log P(y|x): a sum in nats, never a mean."""
        return cross_entropy(rows, batch["targets"], batch["weights"])

    def sliced_cross_entropy(self, batch: Mapping[str, Any]) -> PerSlice | None:
        """The same as a function of a slice's log-probabilities; None where it is no sum over predictions (CTC)."""
        return sliced_cross_entropy(batch["targets"], batch["weights"])

    def predict(
        self, model: Any, examples: Sequence[Example], *, device: str = "cpu", autocast: Autocast = nullcontext
    ) -> list[Prediction]:
        """The model's answers, one an example."""
        batch = to_device(self.collate(examples), device)
        with autocast():
            outputs = self.forward(model, batch)
        return self.decode(self.rows(outputs, batch), batch)

    def draw(self, model: Any, examples: Sequence[Example], device: str) -> list[Example]:
        """The examples with texts that the model draws itself, as predictions without labels; for tasks that write."""
        raise NotImplementedError(f"{type(self).__name__} writes no text")

    def decode(self, rows: Rows, batch: Mapping[str, Any]) -> list[Prediction]:
        """The answers that predictions stand for, one an example. Tasks that write override `predict` instead."""
        raise NotImplementedError

    def combine(self, predictions: Sequence[Prediction]) -> Prediction:
        """The answer to a row of several examples: the one of the highest merit, with the loss of all."""
        best = max(predictions, key=lambda p: p.merit)
        if len(predictions) == 1:
            return best
        loss, count = sum(p.loss for p in predictions), sum(p.count for p in predictions)
        return replace(best, loss=loss, count=count)

    # answers as labels

    def with_target(self, row: Row, value: Any) -> Row:
        """The row with another label (or text to be written), as its column holds it, under the key it had."""
        (column,) = [c.name for c in self.columns if c.label and c.required]
        return replace(row, fields={**row.fields, column: value})

    def labelled_by(self, row: Row, answer: Prediction) -> Row:
        """The row with a model's answer as its label, under the key it had."""
        return self.with_target(row, answer.value)

    # scores

    @abstractmethod
    def gold(self, row: Row) -> Any:
        """The right answer of a row (or all of them), as plain JSON."""

    @abstractmethod
    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        """Statistics per row [rows, K] whose sum gives the score, so that a bootstrap is one matrix product."""

    @abstractmethod
    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Summed statistics [..., K] as metrics [...], each in its unit (0..1; BLEU and chrF 0..100; CIDEr from 0).

        `loss` and `perplexity` are not made here: evaluation has the losses.
        """

    def details(self, sums: np.ndarray) -> dict[str, Any]:
        """What is worth more than a number: `{"by_label": {...}}`, from summed statistics [K]."""
        return {}

    @abstractmethod
    def row_score(self, value: Any, gold: Any) -> float:
        """One row's own score; more is better, 1 (or the metric's best) where nothing is wrong."""

    def choice_name(self, choice: int) -> str:
        """A choice for people: a label, a token, a position."""
        if self.choices == "tokens":
            return str(self.tokenizer.convert_ids_to_tokens(choice))
        if self.choices == "positions":
            return f"position {choice}"
        return ("no", "yes")[choice] if self.settings.multi_label else self.settings.labels[choice]


def _other_targets(row: Row) -> Problem:
    return Problem(
        f"{row.file}:{row.line}",
        "reference",
        "a target that the reference's tokenizer cuts into other tokens than the student's",
        "the same tokens: each is a prediction of both",
        "leave the row out (bad_rows: skip), or take a reference that reads texts as the student does",
        kind="other tokens",
    )


def stack(rows: Sequence[Sequence[Any]], *, fill: Any, left: bool = False) -> Tensor:
    """Sequences of uneven length as one tensor [B, longest], padded with `fill` at the right (or the left)."""
    tensors = [torch.as_tensor(row) for row in rows]
    longest = max(len(row) for row in tensors)
    dtype = torch.bool if isinstance(fill, bool) else tensors[0].dtype
    table = torch.full((len(rows), longest, *tensors[0].shape[1:]), fill, dtype=dtype)
    for i, row in enumerate(tensors):
        start = longest - len(row) if left else 0
        table[i, start : start + len(row)] = row
    return table


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where there is nothing to divide by (scikit-learn's zero_division=0)."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=np.asarray(whole) > 0)


def to_device(batch: Mapping[str, Any], device: str | torch.device) -> dict[str, Any]:
    """A batch with its tensors, also the nested ones, on `device`."""
    moved: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, Mapping):
            moved[name] = to_device(value, device)
        else:
            moved[name] = value.to(device) if isinstance(value, Tensor) else value
    return moved


def by_length(examples: Sequence[Example], size: int) -> list[list[int]]:
    """Places of `examples` in batches of at most `size`, longest first: memory peaks at once, padding is small."""
    order = sorted(range(len(examples)), key=lambda i: -examples[i].length)
    return [order[start : start + size] for start in range(0, len(order), size)]


T = TypeVar("T")


def answers(
    task: Task,
    encoded: Sequence[Sequence[Example]],
    ask: Callable[[list[Example]], Sequence[Prediction]],
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Prediction]:
    """The answer to each row, in their order, of whoever `ask` puts a batch of examples to."""
    each = iter(in_batches([e for row in encoded for e in row], ask, batch_size=batch_size, progress=progress))
    return [task.combine([next(each) for _ in row]) for row in encoded]


def in_batches(
    examples: Sequence[Example],
    ask: Callable[[list[Example]], Sequence[T]],
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda done: None,
) -> list[T]:
    """What `ask` answers to each example, in their order; it is asked for batches of examples of similar length."""
    answers: dict[int, T] = {}
    for places in by_length(examples, batch_size):
        answers |= zip(places, ask([examples[i] for i in places]), strict=True)
        progress(len(places))
    return [answers[place] for place in range(len(examples))]
