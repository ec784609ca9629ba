"""A tag for every word of a row: one choice a word, made at its first token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keeltune.data.dataset import Row
from keeltune.objective.host_counts import at_predictions
from keeltune.objective.predictions import IGNORED, Dense, Rows, nll
from keeltune.tasks.common import tag_schemes
from keeltune.tasks.common.control_tokens import uncut
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.padding import pad_tokens
from keeltune.tasks.common.tag_schemes import IOB1, OUTSIDE, legal_path
from keeltune.tasks.common.word_pieces import Reading, space_before_words, special_token
from keeltune.tasks.task import Task

REMEMBERED = 200_000
"""Words whose tokens are kept at hand: a corpus has few different ones."""


class SequenceLabeling(Task):
    """Tags of the words of a row, columns `tokens` and `tags`. N = words that are read, C = tags.

    A word is predicted once: a row that is read in several windows shares its words among them. One that `max_length`
    cut off has no prediction, and is O in the answer. The answer is the likeliest of the tag sequences that the scheme
    has (`legal_path`), over all windows; the loss is that of the words one by one.
    """

    auto_models = ("AutoModelForTokenClassification",)
    answer = "tags"
    choices = "labels"
    pipeline = "token-classification"
    separate_head = True

    @abstractmethod
    def read(self, row: Row) -> list[Reading]:
        """What a model is shown of a row, in one window or in several; each word is among the heads of one of them."""

    @classmethod
    def words(cls, row: Row) -> list[str]:
        """The words that have tags."""
        return list(row.fields["tokens"])

    # Labels

    @classmethod
    def labels_of(cls, row: Row) -> list[str]:
        return list(row.fields.get("tags", ()))

    @classmethod
    def label_inventory(cls, names: Sequence[str]) -> list[str]:
        """O, then the tags of every kind of span that has one of them, by name; other names come last."""
        return tag_schemes.closed(names)

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterable[Fault]:
        if labelled and (words := len(cls.words(row))) != (tags := len(row.fields["tags"])):
            found = f"{tags} tags for {words} tokens"
            yield Fault("tags", "tags and tokens differ in number", found, "a tag for each token", "add or delete tags")

    def setup(self) -> None:
        self.names = list(self.settings.labels)
        self.index = {name: i for i, name in enumerate(self.names)}
        weights = self.settings.class_weights or {}
        self.label_weights = [float(weights.get(name, 1.0)) for name in self.names]
        self.space = space_before_words(self.tokenizer)
        self._pieces: dict[str, list[int]] = {}

    # From rows to batches

    def pieces(self, words: Sequence[str]) -> list[list[int]]:
        """The tokens of each word, at least one: a word of which the tokenizer makes nothing is unknown.

        Words are cut into tokens one by one, with a space before them where the tokenizer marks words so; this is what
        `is_split_into_words` does, and byte-level tokenizers refuse to do unless made with `add_prefix_space`. What
        looks like a special token (`[SEP]`) is text here.
        """
        new = [word for word in dict.fromkeys(words) if word not in self._pieces]
        if new:
            if len(self._pieces) + len(new) > REMEMBERED:
                self._pieces, new = {}, list(dict.fromkeys(words))
            texts = [uncut(self.tokenizer, self.space + word) for word in new]
            tokens = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            unknown = self.tokenizer.unk_token_id
            placeholder = [special_token(self.tokenizer) if unknown is None else unknown]
            self._pieces |= {word: list(ids) or placeholder for word, ids in zip(new, tokens, strict=True)}
        return [self._pieces[word] for word in words]

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        readings = self.read(row)
        keys = [row.key] if len(readings) == 1 else [f"{row.key}#{number}" for number in range(len(readings))]
        return [
            replace(self._example(row, reading, labelled=labelled, windows=len(readings)), key=key)
            for reading, key in zip(readings, keys, strict=True)
        ]

    def encode_beside(
        self, examples: Sequence[Example], row: Row, *, labelled: bool = True, scored: bool = False
    ) -> list[Example]:
        """Each window's words again, as this task's own tokenizer cuts them."""
        if len(examples) == 1:
            return super().encode_beside(examples, row, labelled=labelled, scored=scored)
        return [
            replace(self._example(row, self.read_again(row, _words(e)), labelled=labelled, windows=len(examples)),
                    key=e.key)
            for e in examples
        ]  # fmt: skip

    def read_again(self, row: Row, words: range) -> Reading:
        """What a model is shown for it to predict these words, as many of them as have room."""
        raise NotImplementedError(f"{type(self).__name__} reads a row in one window")

    def _example(self, row: Row, reading: Reading, *, labelled: bool, windows: int) -> Example:
        length = len(reading.inputs["input_ids"])
        shown = slice(reading.first, reading.first + len(reading.heads))
        heads = set(reading.heads)
        targets = [IGNORED] * len(heads)
        if labelled:  # a tag that training rows never had cannot be predicted
            targets = [self.index.get(tag, IGNORED) for tag in row.fields["tags"][shown]]
        return Example(
            reading.inputs,
            targets,
            [1.0 if t == IGNORED else self.label_weights[t] for t in targets],
            row.key,
            length,
            predicted=[position in heads for position in range(length)],
            truncated=reading.truncated,
            notes={"words": len(self.words(row)), "first": reading.first, "windows": windows},
        )

    def pad(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return pad_tokens(self.tokenizer, inputs, left=False)  # as `predicted` is

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Beside the contract's: a reference that cuts a row elsewhere predicts the words that the student reads too.

        `covered` [N] in its part of the batch says which of them it reads; the others carry no D.
        """
        shorter = set()
        for name in self.companions:
            if any(name in e.others and _words(e.others[name]) != _words(e) for e in examples):
                shorter.add(name)
        if shorter:
            examples = [replace(e, others={n: _within(o, _words(e)) for n, o in e.others.items()}) for e in examples]
        batch = super().collate(examples)
        for name in shorter:
            covered = torch.tensor([word in _words(e.others[name]) for e in examples for word in _words(e)])
            batch[name] |= {"covered": covered, "covered_at": covered.nonzero().flatten()}
            batch["anchored"] &= covered
        return batch

    # Predictions

    def rows(self, outputs: Any, batch: Mapping[str, Any], order: Sequence[int] | None = None) -> Rows:
        logits = at_predictions(outputs.logits[:, : batch["predicted"].shape[1]], batch)  # [N, C]
        logits = logits if order is None else logits[:, list(order)]
        if (covered := batch.get("covered")) is not None:
            spread = logits.new_zeros(len(covered), logits.shape[-1])
            spread[batch["covered_at"]] = logits
            logits = spread
        return Dense(logits)

    @property
    def free(self) -> bool:
        """Whether a span may begin with I-X: the training rows were in IOB1, or the head's names leave no other way."""
        return getattr(self.settings.config, "tag_scheme", None) == IOB1 or tag_schemes.is_free(self.names)

    def decode(self, rows: Rows, batch: Mapping[str, Any]) -> list[Prediction]:
        counts = batch["counts"].tolist()
        tables = rows.log_probs(slice(None)).split(counts)
        losses = nll(rows, batch["targets"], batch["weights"]).split(counts)
        labelled = ((batch["targets"] != IGNORED) * batch["weights"]).split(counts)
        answers = []
        for table, loss, count, notes in zip(tables, losses, labelled, batch["notes"], strict=True):
            part = table.detach().double().cpu().numpy()
            tags = None if notes["windows"] > 1 else self._tags(part, notes)
            answers.append(Prediction(tags, None, loss.sum().item(), count.sum().item(), part=part))
        return answers

    def combine(self, predictions: Sequence[Prediction]) -> Prediction:
        """The tags of a row's words, chosen together where its windows told them apart."""
        if len(predictions) == 1:
            return replace(predictions[0], part=None)
        table = np.concatenate([prediction.part for prediction in predictions])
        loss, count = sum(p.loss for p in predictions), sum(p.count for p in predictions)
        return Prediction(self._tags(table, {"words": len(table), "first": 0}), None, loss, count)

    def _tags(self, log_probs: np.ndarray, notes: Mapping[str, Any]) -> list[str]:
        """The tags of a row's words, O for those that were not read; `log_probs` [n, C] of those that were."""
        path = [self.names[i] for i in legal_path(log_probs, self.names, free=self.free)]
        after = notes["words"] - notes["first"] - len(path)
        return [OUTSIDE] * notes["first"] + path + [OUTSIDE] * after

    def gold(self, row: Row) -> Any:
        return list(row.fields["tags"])


def _words(example: Example) -> range:
    """The words that an example reads."""
    return range(example.notes["first"], example.notes["first"] + len(example.targets))


def _within(example: Example, words: range) -> Example:
    """An example that reads as it did, and predicts only those of its words that are among `words`."""
    shared = [word in words for word in _words(example)]
    heads = iter(shared)
    return replace(
        example,
        targets=[t for t, keep in zip(example.targets, shared, strict=True) if keep],
        weights=[w for w, keep in zip(example.weights, shared, strict=True) if keep],
        predicted=[head and next(heads) for head in example.predicted],
        notes={**example.notes, "first": max(example.notes["first"], words.start)},
    )
