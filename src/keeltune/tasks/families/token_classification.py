"""A tag for every word of a sentence: one choice a word, made at its first token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED, Dense, Rows, nll
from keeltune.tasks.families.padding import pad_tokens
from keeltune.tasks.task import Example, Fault, Prediction, Task

OUTSIDE = "O"

REMEMBERED = 200_000
"""Words whose tokens are kept at hand: a corpus has few different ones."""


@dataclass(frozen=True)
class Reading:
    """What a model reads of a row: its inputs, and the position of the first token of each word that is read.

    The words are `first`, `first + 1`, …; the others were cut off. `cut`: some word or part of one was.
    """

    inputs: dict[str, list[int]]
    heads: Sequence[int]
    first: int
    cut: bool


class TokenClassification(Task):
    """BIO tags of the words of a row, columns `tokens` and `tags`. N = words that are read, C = tags.

    B-X begins a span of the kind X, I-X goes on with it, O is outside. A word that `max_length` cut off has no
    prediction, and is O in the answer. The answer is the likeliest of the legal tag sequences (`legal_path`), so that
    no I-X comes first in a span; the loss is that of the words one by one.
    """

    auto_models = ("AutoModelForTokenClassification",)
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
    def closed(cls, names: Sequence[str]) -> list[str]:
        """O, then B-X and I-X of every kind X that has one of them, by name; other names come last."""
        kinds = sorted({name[2:] for name in names if _in_span(name)})
        others = [name for name in dict.fromkeys(names) if name != OUTSIDE and not _in_span(name)]
        return [OUTSIDE, *(f"{side}-{kind}" for kind in kinds for side in "BI"), *others]

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterable[Fault]:
        if not labelled:
            return
        words, tags = row.fields["tokens"], row.fields["tags"]
        if len(words) != len(tags):
            found = f"{len(tags)} tags for {len(words)} tokens"
            yield Fault("tags", "tags and tokens differ in number", found, "a tag for each token", "add or delete tags")
        for place, (before, tag) in enumerate(zip([OUTSIDE, *tags], tags, strict=False)):
            if tag != OUTSIDE and not _in_span(tag):
                found = f'"{tag[:80]}" at {place}'
                yield Fault("tags", "not a BIO tag", found, "O, B-ROLE or I-ROLE", "write it so, as in B-ARG0")
            elif tag.startswith("I-") and (not _in_span(before) or before[2:] != tag[2:]):
                found = f'"{tag[:80]}" at {place}, after "{before[:80]}"'
                expected = f'a span begins with "B-{tag[2:80]}"'
                yield Fault("tags", "I- without B-", found, expected, f'write "B-{tag[2:80]}"')

    def recipe_faults(self) -> Iterable[Fault]:
        if not any(name.startswith("B-") for name in self.names):
            found, expected = ", ".join(self.names[:10]), "tags: O, B-ROLE and I-ROLE"
            yield Fault("data.labels", "no BIO tags", found, expected, "write them so, or leave data.labels out")

    def setup(self) -> None:
        self.names = list(self.settings.labels)
        self.index = {name: i for i, name in enumerate(self.names)}
        given = self.settings.class_weights or {}
        self.label_weights = [float(given.get(name, 1.0)) for name in self.names]
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
            texts = [self.space + word for word in new]
            found = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            unknown = self.tokenizer.unk_token_id
            nothing = [special_token(self.tokenizer) if unknown is None else unknown]
            self._pieces |= {word: list(ids) or nothing for word, ids in zip(new, found, strict=True)}
        return [self._pieces[word] for word in words]

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        reading = self.read(row)
        length = len(reading.inputs["input_ids"])
        kept = slice(reading.first, reading.first + len(reading.heads))
        heads = set(reading.heads)
        targets = [IGNORED] * len(heads)
        if labelled:  # a tag that training rows never had cannot be predicted
            targets = [self.index.get(tag, IGNORED) for tag in row.fields["tags"][kept]]
        return [
            Example(
                reading.inputs,
                targets,
                [1.0 if t == IGNORED else self.label_weights[t] for t in targets],
                row.key,
                length,
                places=[place in heads for place in range(length)],
                truncated=reading.cut,
                notes={"words": len(row.fields["tokens"]), "first": reading.first},
            )
        ]

    def pad(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return pad_tokens(self.tokenizer, inputs, left=False)  # as `places` are

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Beside the contract's: a reference that cuts a row elsewhere predicts the words that the student reads too.

        `there` [N] in its part of the batch says which of them it reads; the others carry no D.
        """
        cut = set()
        for name in self.companions:
            if any(name in e.others and _words(e.others[name]) != _words(e) for e in examples):
                cut.add(name)
        if cut:
            examples = [replace(e, others={n: _within(o, _words(e)) for n, o in e.others.items()}) for e in examples]
        batch = super().collate(examples)
        for name in cut:
            there = torch.tensor([word in _words(e.others[name]) for e in examples for word in _words(e)])
            batch[name]["there"] = there
            batch["anchored"] &= there
        return batch

    # Predictions

    def rows(self, outputs: Any, batch: Mapping[str, Any], order: Sequence[int] | None = None) -> Rows:
        logits: Tensor = outputs.logits[:, : batch["places"].shape[1]][batch["places"]]  # [N, C]
        logits = logits if order is None else logits[:, list(order)]
        if (there := batch.get("there")) is not None:
            spread = logits.new_zeros(len(there), logits.shape[-1])
            spread[there] = logits
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
            behind = notes["words"] - notes["first"] - len(path)
            tags = [OUTSIDE] * notes["first"] + path + [OUTSIDE] * behind
            answers.append(Prediction(tags, None, loss.sum().item(), count.sum().item()))
        return answers


def _in_span(tag: str) -> bool:
    return tag[:2] in ("B-", "I-") and len(tag) > 2


def _words(example: Example) -> range:
    """The words that an example reads."""
    return range(example.notes["first"], example.notes["first"] + len(example.targets))


def _within(example: Example, words: range) -> Example:
    """An example that reads as it did, and predicts only those of its words that are among `words`."""
    kept = [word in words for word in _words(example)]
    each = iter(kept)
    return replace(
        example,
        targets=[t for t, keep in zip(example.targets, kept, strict=True) if keep],
        weights=[w for w, keep in zip(example.weights, kept, strict=True) if keep],
        places=[place and next(each) for place in example.places],
        notes={**example.notes, "first": max(example.notes["first"], words.start)},
    )


def legal_path(log_probs: np.ndarray, names: Sequence[str]) -> list[int]:
    """The tag sequence of the largest Σ log P among those in which I-X follows B-X or I-X; exact.

    Args: `log_probs` [n, C], n ≥ 1, in nats; `names` [C]. Returns n places in `names`. Without a B-X, I-X is never
    reached. Source: Viterbi 1967; every other step is legal, so one maximum over all tags serves them all.
    """
    index = {name: i for i, name in enumerate(names)}
    inside = np.array([name.startswith("I-") for name in names])
    itself = np.arange(len(names))
    opening = np.array([index.get(f"B-{n[2:]}", i) if inside[i] else i for i, n in enumerate(names)])
    score = np.where(inside, -np.inf, log_probs[0])
    came_from = np.zeros((len(log_probs), len(names)), dtype=np.int64)
    for step in range(1, len(log_probs)):
        same_span = np.where(score[opening] >= score, opening, itself)
        came_from[step] = np.where(inside, same_span, score.argmax())
        score = score[came_from[step]] + log_probs[step]
    path = [int(score.argmax())]
    for step in range(len(log_probs) - 1, 0, -1):
        path.append(int(came_from[step][path[-1]]))
    return path[::-1]


# What tokenizers do around words, found out by trying


@dataclass(frozen=True)
class Frame:
    """The special tokens that a tokenizer puts before, between and after two texts, and its segment numbers.

    `segments` has those of the tokens before, of the first text (one number), between, of the second, after; None
    where the tokenizer has none.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    segments: tuple[list[int], int, list[int], int, list[int]] | None

    def __len__(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def around(self, first: Sequence[int], second: Sequence[int]) -> tuple[dict[str, list[int]], int]:
        """The two texts as a model's inputs, and the position at which the second begins."""
        ids = [*self.before, *first, *self.between, *second, *self.after]
        inputs = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if self.segments:
            before, one, between, two, after = self.segments
            inputs["token_type_ids"] = [*before, *[one] * len(first), *between, *[two] * len(second), *after]
        return inputs, len(self.before) + len(first) + len(self.between)


def frame_of(tokenizer: Any, segments: int | None = None) -> Frame:
    """The frame of a pair of texts. `segments`: how many kinds of segments the model knows, None where it is not said.

    A tokenizer that puts nothing between two texts gets `special_token` there.
    """
    one, two = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in "ab")
    found = tokenizer("a", "b")
    ids, kinds = list(found["input_ids"]), list(found.get("token_type_ids", ()))
    first = _place(one, ids, 0)
    second = _place(two, ids, first + len(one))
    end, between = second + len(two), ids[first + len(one) : second]
    split = None
    if kinds:
        kinds = [min(kind, (segments or max(kinds) + 1) - 1) for kind in kinds]
        inner = kinds[first + len(one) : second] or [kinds[first]]
        split = (kinds[:first], kinds[first], inner, kinds[second], kinds[end:])
    return Frame(ids[:first], between or [special_token(tokenizer)], ids[end:], split)


def _place(part: Sequence[int], whole: Sequence[int], start: int) -> int:
    return next((i for i in range(start, len(whole)) if whole[i : i + len(part)] == part), start)


def special_token(tokenizer: Any) -> int:
    """A token that no word is made of: the separator, or the end, or whatever other special one there is."""
    names = ("sep_token_id", "eos_token_id", "bos_token_id", "cls_token_id", "unk_token_id", "pad_token_id")
    return next(int(i) for name in names if (i := getattr(tokenizer, name, None)) is not None)


def space_before_words(tokenizer: Any) -> str:
    """What stands before a word for its tokens to be those that it has in a text: a space, or nothing."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    whole = ids("a b")
    return next((space for space in ("", " ") if ids("a") + ids(space + "b") == whole), "")


def window(pieces: Sequence[list[int]], center: int, room: int) -> tuple[int, list[list[int]]]:
    """The words around `center` that have room for their tokens: the first of them, and the tokens of each.

    Words are taken from the right and the left in turn; the last may lose tokens, never its first.
    """
    if sum(map(len, pieces)) <= room:
        return 0, list(pieces)
    kept: dict[int, list[int]] = {}
    distances = range(len(pieces))
    for place in dict.fromkeys(p for d in distances for p in (center + d, center - d) if 0 <= p < len(pieces)):
        if room <= 0:
            break
        kept[place] = pieces[place][:room]
        room -= len(kept[place])
    return min(kept, default=center), [kept[place] for place in sorted(kept)]
