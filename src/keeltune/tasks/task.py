"""The contract of a task: from a row of data to predictions, and from predictions to a score.

    row -> encode -> examples -> collate -> batch -> forward -> rows -> cross_entropy | predict -> score

A family (`tasks/families/`) supplies targets, aligned rows, cross-entropy and decoding once; a task file adds columns,
encoding and metrics (`tasks/metrics/`). What a task says of itself without a model is its `Declaration`. Labels never
enter a model: its own loss would be a mean, and the wrong one.

Shapes: B examples of a batch, N predictions, C choices, K statistics a row, L labels, S and T source and target tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from keeltune.data.dataset import Row
from keeltune.objective.predictions import PerSlice, Rows, cross_entropy, sliced_cross_entropy
from keeltune.objective.references.reference import ToRows
from keeltune.tasks.common.batches import Autocast, collated, labelled_and_anchored, losses_by_example, to_device
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.fault import Fault, other_targets
from keeltune.tasks.common.padding_effect import PaddingEffect
from keeltune.tasks.common.scoring import Scoring
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.common.text_answers import TextAnswers
from keeltune.tasks.common.text_padding import TextPadding
from keeltune.utils.errors import UserError


class Task(TextAnswers):
    """One application."""

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
    def reported(self) -> tuple[str, ...]:
        """The names that are reported of those in `scored_by`, `loss` and `perplexity`, the primary one first."""
        return tuple(name for metric in self.metrics_of(self.settings) for name in metric.names)

    @cached_property
    def scoring(self) -> Scoring:
        """The task's metrics with those that the recipe adds."""
        return Scoring(self.answer, self.metrics_of(self.settings), self.reported, self.settings)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the scores, the primary one first: the recipe's `evaluation.metric`, else the task's own."""
        return self.scoring.names

    @property
    def lower_is_better(self) -> frozenset[str]:
        """The names whose smaller values are the better ones."""
        return self.scoring.lower_is_better

    @property
    def primary_sign(self) -> float:
        """+1 where more of the primary metric is better, −1 where less is."""
        return -1.0 if self.metrics[0] in self.lower_is_better else 1.0

    def setup(self) -> None:
        """What the family derives from its processor and settings."""

    def adopt(self, model: Any, processor: Any, examples: Sequence[Example] = ()) -> list[str]:
        """Answers with this model and its processor from now on (`examples`: the training rows'); in words."""
        self.processor = processor
        return []

    @property
    def base_choices(self) -> dict[str, Any]:
        """What the model's own settings would choose of how texts are written, and this task does not."""
        return {}

    def recipe_faults(self) -> Iterable[Fault]:
        """What this task, with this model, cannot do with its settings; `field` is the recipe's."""
        return ()

    # rows of the data

    def row_faults(self, row: Row, examples: Sequence[Example]) -> Iterable[Fault]:
        """What is wrong with a row for this model, now that it is encoded: `examples` are what became of it."""
        return ()

    @abstractmethod
    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        """A row as examples, keyed by the row's key (+ index where there are several). Pure: no randomness."""

    def encoding_ahead(self, rows: Sequence[Row]) -> AbstractContextManager[Any]:
        """Within: `encode` of these rows finds texts tokenized that it would ask for one by one. It changes nothing."""
        return nullcontext()

    def listen(self, model: Any, encoded: Sequence[Sequence[Example]], device: str) -> list[str]:
        """Hears what only the model can say of rows (`notes["open"]`), for `encode` to know; in words."""
        return []

    def encode_for_all(self, row: Row, *, labelled: bool = True, scored: bool = False) -> list[Example]:
        """`encode` (`scored`: `encode_scored`), with the encodings of references that read the same row otherwise.

        Where predictions are tokens, both must be asked for the same ones: UserError for a row of which that is not so.
        """
        examples = self.encode_scored(row, labelled=labelled) if scored else self.encode(row, labelled=labelled)
        for name, companion in self.companions.items():
            others = companion.encode_beside(examples, row, labelled=labelled, scored=scored)
            if self.choices == "tokens" and [e.targets for e in others] != [e.targets for e in examples]:
                raise UserError(other_targets(row))
            examples = [
                replace(example, others={**example.others, name: other})
                for example, other in zip(examples, others, strict=True)
            ]
        return examples

    def encode_beside(
        self, examples: Sequence[Example], row: Row, *, labelled: bool = True, scored: bool = False
    ) -> list[Example]:
        """A row whose `examples` another task made, in this one's encoding: as many, of the same parts of it."""
        return self.encode_scored(row, labelled=labelled) if scored else self.encode(row, labelled=labelled)

    def encode_scored(self, row: Row, *, labelled: bool = True) -> list[Example]:
        """A row as it is scored; differs from `encode` where training makes several examples of one question."""
        return self.encode(row, labelled=labelled)

    def lessons(self, example: Example) -> float:
        """How much an example has to teach: its labelled predictions; 0 for one of which nothing is learnt."""
        return example.labelled

    def notices(self, examples: Sequence[Example]) -> list[str]:
        """What users should know of the encoded training rows."""
        return []

    def annotate(self, config: Any, examples: Sequence[Example]) -> None:
        """Keeps in the model's configuration what answering must know of the encoded training rows."""

    # batches

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Examples as a batch (`batches.collated`); what other readers read lies in it as batches of their own."""
        batch = collated(examples, self.pad)
        for name, companion in self.companions.items():
            if name in examples[0].others:
                batch[name] = companion.collate([e.others[name] for e in examples])
        return batch

    @property
    def separable(self) -> bool:
        """Whether some rows of a batch have the same predictions alone as among the others: not positions in a batch's
        longest row, and not where a reference reads rows otherwise and may lack some of a row's predictions."""
        return self.choices != "positions" and not self.companions

    def collate_anchored(self, examples: Sequence[Example]) -> dict[str, Any]:
        """`collate`, with the anchored examples alone as the batch's `anchored_batch`, where there are others too: the
        reference reads those, so that it computes nothing on rows on which it is not compared."""
        anchored = [example for example in examples if example.anchored]
        batch = self.collate(examples)
        if not self.separable:
            return batch
        return batch if len(anchored) in (0, len(examples)) else {**batch, "anchored_batch": self.collate(anchored)}

    @abstractmethod
    def pad(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Encoded inputs of uneven length as a model's tensors [B, S]."""

    def counts(self, batch: Mapping[str, Any]) -> tuple[float, float]:
        """n_CE and n_D of a batch: its labelled predictions (their weights' sum), and its anchored ones."""
        return labelled_and_anchored(batch)

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        """The model's outputs. Families with a vocabulary head let the head see the predictions alone."""
        return self.padding_effect.forward(model, batch)

    def unpackable(self, model: Any, batch: Mapping[str, Any]) -> str:
        """Why this model cannot be handed the texts of a batch packed (`training.packing`); empty where it can."""
        return "only what a decoder writes is read token by token"

    @cached_property
    def padding_effect(self) -> PaddingEffect:
        """Which rows may share a forward pass."""
        return TextPadding(self.tokenizer)

    @abstractmethod
    def rows(self, outputs: Any, batch: Mapping[str, Any], order: Sequence[int] | None = None) -> Rows:
        """A model's outputs as N predictions, aligned with the targets (shift, spans and frames live here only).

        `order[i]` is the index of our label i among the model's own, for a reference with the same names otherwise.
        """

    def converted(self, to_rows: ToRows, config: Any) -> ToRows:
        """`rows` of a reference of this configuration, where it says its predictions in a unit of its own."""
        return to_rows

    def cross_entropy(self, rows: Rows, batch: Mapping[str, Any]) -> Tensor:
        """Σ w · −log P(y|x): a sum in nats, never a mean."""
        return cross_entropy(rows, batch["targets"], batch["weights"])

    def sliced_cross_entropy(self, batch: Mapping[str, Any]) -> PerSlice | None:
        """The same as a function of a slice's log-probabilities; None where it is no sum over predictions (CTC)."""
        return sliced_cross_entropy(batch["targets"], batch["weights"])

    def losses(self, rows: Rows, batch: Mapping[str, Any]) -> list[float]:
        """Σ CE of each example, in nats."""
        return losses_by_example(rows, batch)

    def predict(
        self, model: Any, examples: Sequence[Example], *, device: str = "cpu", autocast: Autocast = nullcontext
    ) -> list[Prediction]:
        """The model's answers, one an example."""
        batch = to_device(self.collate(examples), device)
        with autocast():
            outputs = self.forward(model, batch)
        return self.decode(self.rows(outputs, batch), batch)

    def decode(self, rows: Rows, batch: Mapping[str, Any]) -> list[Prediction]:
        """The answers that predictions stand for, one an example. Tasks that write override `predict` instead."""
        raise NotImplementedError

    def combine(self, predictions: Sequence[Prediction]) -> Prediction:
        """The answer to a row of several examples: the one of the highest score, with the loss of all."""
        best = max(predictions, key=lambda p: p.score)
        return replace(best, loss=sum(p.loss for p in predictions), count=sum(p.count for p in predictions))

    # texts, of tasks that generate (the others of them: `TextAnswers`)

    def openings(self, rows: Sequence[Row]) -> list[Example]:
        """What a source model samples texts from where no source rows are at hand: the inputs of these rows."""
        return [example for row in rows for example in self.encode_scored(row, labelled=False)]

    # answers as labels

    def with_target(self, row: Row, value: Any) -> Row:
        """The row with another label (or text to be written), as its column holds it, under the key it had."""
        (column,) = [c.name for c in self.columns if c.label and c.required]
        return replace(row, fields={**row.fields, column: value})

    def labelled_by(self, row: Row, answer: Prediction) -> Row:
        """The row with a model's answer as its label, under the key it had."""
        return self.with_target(row, answer.value)

    def explained(self, row: Row, value: Any) -> dict[str, Any]:
        """What `predict` says besides an answer, for people: the places of entities."""
        return {}

    # scores

    @abstractmethod
    def gold(self, row: Row) -> Any:
        """The right answer of a row (or all of them), as plain JSON."""

    def statistics(self, values: Sequence[Any], golds: Sequence[Any], *probabilities: Sequence[Any]) -> np.ndarray:
        """Statistics per row [rows, K] whose sum gives the scores; `probabilities` as `scoring.reads_probabilities`."""
        return self.scoring.statistics(values, golds, *probabilities)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Summed statistics [..., K] as scores [...], each in its unit; `loss` is not made here."""
        return self.scoring.scores(sums)

    def details(self, sums: np.ndarray) -> dict[str, Any]:
        """What is worth more than a number: `{"by_label": {...}}`, from summed statistics [K]."""
        return self.scoring.details(sums)

    def row_score(self, value: Any, gold: Any) -> float:
        """One row's own score; more is better, 1 (or the metric's best) where nothing is wrong."""
        return self.scoring.row_score(value, gold)

    def choice_name(self, choice: int) -> str:
        """A choice for people: a label, a token, a position."""
        if self.choices == "tokens":
            return str(self.tokenizer.convert_ids_to_tokens(choice))
        if self.choices == "positions":
            return f"position {choice}"
        if self.choices == "numbers":
            return "number"
        return ("no", "yes")[choice] if self.settings.multi_label else self.settings.labels[choice]
