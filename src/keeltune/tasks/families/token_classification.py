"""A tag for every word of a sentence: one choice a word, made at its first token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED, Dense, Rows, nll
from keeltune.tasks.common.bio_tags import OUTSIDE, in_span, legal_path
from keeltune.tasks.common.control_tokens import uncut
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.padding import pad_tokens
from keeltune.tasks.common.word_pieces import Reading, space_before_words, special_token
from keeltune.tasks.task import Task

REMEMBERED = 200_000
"""Words whose tokens are kept at hand: a corpus has few different ones."""


class TokenClassification(Task):
    """BIO tags of the words of a row, columns `tokens` and `tags`. N = words that are read, C = tags.

    B-X begins a span of the kind X, I-X goes on with it, O is outside. A word that `max_length` cut off has no
    prediction, and is O in the answer. The answer is the likeliest of the legal tag sequences (`legal_path`), so that
    no I-X comes first in a span; the loss is that of the words one by one.
    """

    auto_models = ("AutoModelForTokenClassification",)
    answer = "tags"
    choices = "labels"
    pipeline = "token-classification"
    separate_head = True

    @abstractmethod
    def read(self, row: Row) -> Reading:
        """What a model is shown of a row."""

    # Labels

    @classmethod
    def labels_of(cls, row: Row) -> list[str]:
        return list(row.fields.get("tags", ()))

    @classmethod
    def label_inventory(cls, names: Sequence[str]) -> list[str]:
        """O, then B-X and I-X of every kind X that has one of them, by name; other names come last."""
        kinds = sorted({name[2:] for name in names if in_span(name)})
        others = [name for name in dict.fromkeys(names) if name != OUTSIDE and not in_span(name)]
        return [OUTSIDE, *(f"{side}-{kind}" for kind in kinds for side in "BI"), *others]

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterable[Fault]:
        if not labelled:
            return
        words, tags = row.fields["tokens"], row.fields["tags"]
        if len(words) != len(tags):
            found = f"{len(tags)} tags for {len(words)} tokens"
            yield Fault("tags", "tags and tokens differ in number", found, "a tag for each token", "add or delete tags")
        for index, (previous, tag) in enumerate(zip([OUTSIDE, *tags], tags, strict=False)):
            if tag != OUTSIDE and not in_span(tag):
                found = f'"{tag[:80]}" at {index}'
                yield Fault("tags", "not a BIO tag", found, "O, B-ROLE or I-ROLE", "write it so, as in B-ARG0")
            elif tag.startswith("I-") and (not in_span(previous) or previous[2:] != tag[2:]):
                found = f'"{tag[:80]}" at {index}, after "{previous[:80]}"'
                expected = f'a span begins with "B-{tag[2:80]}"'
                yield Fault("tags", "I- without B-", found, expected, f'write "B-{tag[2:80]}"')

    def recipe_faults(self) -> Iterable[Fault]:
        if not any(name.startswith("B-") for name in self.names):
            found, expected = ", ".join(self.names[:10]), "tags: O, B-ROLE and I-ROLE"
            yield Fault("data.labels", "no BIO tags", found, expected, "write them so, or leave data.labels out")

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
        reading = self.read(row)
        length = len(reading.inputs["input_ids"])
        shown = slice(reading.first, reading.first + len(reading.heads))
        heads = set(reading.heads)
        targets = [IGNORED] * len(heads)
        if labelled:  # a tag that training rows never had cannot be predicted
            targets = [self.index.get(tag, IGNORED) for tag in row.fields["tags"][shown]]
        return [
            Example(
                reading.inputs,
                targets,
                [1.0 if t == IGNORED else self.label_weights[t] for t in targets],
                row.key,
                length,
                predicted=[position in heads for position in range(length)],
                truncated=reading.truncated,
                notes={"words": len(row.fields["tokens"]), "first": reading.first},
            )
        ]

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
            batch[name]["covered"] = covered
            batch["anchored"] &= covered
        return batch

    # Predictions

    def rows(self, outputs: Any, batch: Mapping[str, Any], order: Sequence[int] | None = None) -> Rows:
        logits: Tensor = outputs.logits[:, : batch["predicted"].shape[1]][batch["predicted"]]  # [N, C]
        logits = logits if order is None else logits[:, list(order)]
        if (covered := batch.get("covered")) is not None:
            spread = logits.new_zeros(len(covered), logits.shape[-1])
            spread[covered] = logits
            logits = spread
        return Dense(logits)

    def decode(self, rows: Rows, batch: Mapping[str, Any]) -> list[Prediction]:
        counts = batch["counts"].tolist()
        tables = rows.log_probs(slice(None)).split(counts)
        losses = nll(rows, batch["targets"], batch["weights"]).split(counts)
        labelled = ((batch["targets"] != IGNORED) * batch["weights"]).split(counts)
        answers = []
        for table, loss, count, notes in zip(tables, losses, labelled, batch["notes"], strict=True):
            path = [self.names[i] for i in legal_path(table.detach().double().cpu().numpy(), self.names)]
            after = notes["words"] - notes["first"] - len(path)
            tags = [OUTSIDE] * notes["first"] + path + [OUTSIDE] * after
            answers.append(Prediction(tags, None, loss.sum().item(), count.sum().item()))
        return answers


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
