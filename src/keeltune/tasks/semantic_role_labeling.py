from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.tasks.families.token_classification import (
    OUTSIDE,
    Reading,
    TokenClassification,
    frame_of,
    special_token,
    window,
)
from keeltune.tasks.task import Example, Fault, ratio

PREDICATE = "V"

NEVER_LEARNT = "(never learnt)"

Argument = tuple[str, tuple[tuple[int, int], ...]]
"""A role and its parts, each from its first word to its last."""


class SemanticRoleLabeling(TokenClassification):
    """Who did what to whom: the arguments of one predicate of a sentence, as BIO tags of its words.

    What a model reads is a pair of texts, the predicate and its sentence, with the predicate marked in the sentence:

        [CLS] eats [SEP] the cat that eats [SEP] eats [SEP] fish [SEP]         (of "the cat that eats eats fish", 4)

    The pair is Shi & Lin's, https://arxiv.org/abs/1904.05255, turned round: a decoder reads from the left, and would
    tag the subject before it knew the predicate. The marks say which one is meant where a word occurs twice. Shi & Lin
    say that by an embedding beside BERT, and others by segment numbers; many models have only one segment, and none
    would still be what it is with a part more. The mark is the tokenizer's own separator (or end of text): every
    vocabulary has one, trained, and no word is made of it. A decoder still reads the words to the left of the predicate
    without knowing where it will come. A sentence that is too long keeps the words nearest to the predicate.

    Metrics: F1, precision and recall of arguments over all roles, 0..1, as CoNLL-2005's srl-eval.pl counts. An argument
    is right if its role and all of its parts are, to the word. C-X goes on with the last X before it, which is then one
    argument of several parts; without an X it is an X itself. R-X is a role of its own. V, the predicate, is left out,
    and C-V with it. An I-X that follows neither B-X nor I-X begins an argument, as in conlleval: srl-eval reads
    brackets, and has no such case; data with it is refused.
    Statistics a row: arguments right, predicted and gold, of each role in turn; those of roles never learnt together.
    Source: Carreras & Màrquez 2005, https://aclanthology.org/W05-0620.
    """

    columns = (
        Column("tokens", "words"),
        Column("predicate_index", "index"),
        Column("tags", "words", label=True),
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("f1", "precision", "recall")

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterable[Fault]:
        yield from super().faults(row, labelled=labelled)
        place, words = row.fields["predicate_index"], len(row.fields["tokens"])
        if place >= words:
            expected = f"a word of the sentence: 0 to {words - 1}"
            yield Fault("predicate_index", "past the end", str(place), expected, "count the words from 0")

    def setup(self) -> None:
        super().setup()
        self.roles = sorted({_role(name[2:]) for name in self.names if name != OUTSIDE} - {PREDICATE})
        self.column = {role: i for i, role in enumerate(self.roles)}
        self.separator = special_token(self.tokenizer)
        self.frame = frame_of(self.tokenizer, getattr(self.settings.config, "type_vocab_size", None))

    def recipe_faults(self) -> Iterable[Fault]:
        yield from super().recipe_faults()
        limit, least = self.settings.max_length, len(self.frame) + 4
        if limit is not None and limit < least:
            expected = f"at least {least}: a predicate, its marks, and a word"
            yield Fault("max_length", "no room for a word", str(limit), expected, "raise it")

    def read(self, row: Row) -> Reading:
        words, place = row.fields["tokens"], row.fields["predicate_index"]
        pieces = self.pieces(words)
        predicate, first, kept = pieces[place], 0, pieces
        if self.settings.max_length is not None:
            room = self.settings.max_length - len(self.frame) - 2
            if len(predicate) + sum(map(len, pieces)) > room:
                predicate = predicate[: max(1, room // 4)]
                pieces = [*pieces[:place], predicate, *pieces[place + 1 :]]
                first, kept = window(pieces, place, max(1, room - len(predicate)))
        cut = sum(map(len, kept)) < sum(map(len, self.pieces(words)))
        text: list[int] = []
        heads = []
        for word, ids in enumerate(kept, first):
            mark = [self.separator] if word == place else []
            heads.append(len(text) + len(mark))
            text += [*mark, *ids, *mark]
        inputs, start = self.frame.around(predicate, text)
        return Reading(inputs, [start + head for head in heads], first, cut)

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        (example,) = super().encode(row, labelled=labelled)
        kinds = [tag[2:] for tag in row.fields["tags"]] if labelled else []
        astray = PREDICATE in kinds and kinds[row.fields["predicate_index"]] != PREDICATE
        return [replace(example, notes={**example.notes, "astray": astray})]

    def notices(self, examples: Sequence[Example]) -> list[str]:
        astray = sum(example.notes["astray"] for example in examples)
        return [f"{astray} of {len(examples)} rows have V at another word than predicate_index"] if astray else []

    def gold(self, row: Row) -> Any:
        return list(row.fields["tags"])

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        table = np.zeros((len(golds), 3, len(self.roles) + 1))
        for row, (value, gold) in enumerate(zip(values, golds, strict=True)):
            predicted, right = arguments(value), arguments(gold)
            for kind, found in enumerate((predicted & right, predicted, right)):
                for role, _ in found:
                    table[row, kind, self.column.get(role, len(self.roles))] += 1
        return table.reshape(len(golds), -1)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        right, predicted, gold = (part.sum(-1) for part in self._parts(sums))
        return {"f1": ratio(2 * right, predicted + gold), "precision": ratio(right, predicted),
                "recall": ratio(right, gold)}  # fmt: skip

    def details(self, sums: np.ndarray) -> dict[str, Any]:
        right, predicted, gold = self._parts(sums)
        f1, precision, recall = ratio(2 * right, predicted + gold), ratio(right, predicted), ratio(right, gold)
        table = {
            role: {"precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]),
                   "rows": int(gold[i])}
            for i, role in enumerate([*self.roles, NEVER_LEARNT])
        }  # fmt: skip
        if not gold[-1]:
            del table[NEVER_LEARNT]
        return {"by_label": table}

    def row_score(self, value: Any, gold: Any) -> float:
        predicted, right = arguments(value), arguments(gold)
        both = len(predicted) + len(right)
        return 2 * len(predicted & right) / both if both else 1.0

    def _parts(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Arguments right, predicted and gold: [..., roles + 1] each."""
        table = np.asarray(sums, dtype=np.float64).reshape(*np.shape(sums)[:-1], 3, len(self.roles) + 1)
        return table[..., 0, :], table[..., 1, :], table[..., 2, :]


def arguments(tags: Sequence[str]) -> set[Argument]:
    """The arguments that BIO tags stand for, V left out: (role, ((first word, last word), …))."""
    phrases: list[tuple[str, int, int]] = []
    before = OUTSIDE
    for place, tag in enumerate(tags):
        if tag != OUTSIDE:
            if tag.startswith("I-") and before[2:] == tag[2:]:
                phrases[-1] = (tag[2:], phrases[-1][1], place)
            else:
                phrases.append((tag[2:], place, place))
        before = tag
    found: list[tuple[str, list[tuple[int, int]]]] = []
    latest: dict[str, list[tuple[int, int]]] = {}  # the parts of the last argument of each role
    for kind, first, last in phrases:
        role = _role(kind)
        if kind != role and role in latest:
            latest[role].append((first, last))
        else:
            latest[role] = [(first, last)]
            found.append((role, latest[role]))
    return {(role, tuple(parts)) for role, parts in found if role != PREDICATE}


def _role(kind: str) -> str:
    """The role of an argument of which a tag names a part: C-X is a part of X."""
    return kind.removeprefix("C-")
