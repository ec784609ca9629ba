from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from keeltune.tasks.common.bio_tags import OUTSIDE
from keeltune.tasks.metrics.metric import Metric, ratio

PREDICATE = "V"

NEVER_LEARNT = "(never learnt)"

Argument = tuple[str, tuple[tuple[int, int], ...]]
"""A role and its parts, each from its first word to its last."""


class ArgumentF1(Metric):
    """F1, precision and recall of a predicate's arguments over all roles, 0..1, as CoNLL-2005's srl-eval.pl counts.

    An argument is right if its role and all of its parts are, to the word. C-X goes on with the last X before it, which
    is then one argument of several parts; without an X it is an X itself. R-X is a role of its own. V, the predicate,
    is left out, and C-V with it. An I-X that follows neither B-X nor I-X begins an argument, as in conlleval: srl-eval
    reads brackets, and has no such case; data with it is refused.
    Statistics a row: arguments right, predicted and gold, of each role in turn; those of roles never learnt together.
    Source: Carreras & Màrquez 2005, https://aclanthology.org/W05-0620.
    """

    names = ("f1", "precision", "recall")
    answers = "tags"
    library = "checked against an independent count by the rules of srl-eval.pl"

    @cached_property
    def roles(self) -> list[str]:
        """The roles that the labels have, but for the predicate's own."""
        return sorted({_role(name[2:]) for name in self.settings.labels if name != OUTSIDE} - {PREDICATE})

    @property
    def width(self) -> int:
        return 3 * (len(self.roles) + 1)

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        column = {role: i for i, role in enumerate(self.roles)}
        table = np.zeros((len(golds), 3, len(self.roles) + 1))
        for row, (value, gold) in enumerate(zip(values, golds, strict=True)):
            predicted, right = arguments(value), arguments(gold)
            for kind, members in enumerate((predicted & right, predicted, right)):
                for role, _ in members:
                    table[row, kind, column.get(role, len(self.roles))] += 1
        return table.reshape(len(golds), self.width)

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
        """F1 of the row's arguments, 1 where there are none and none is predicted."""
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
    previous = OUTSIDE
    for word, tag in enumerate(tags):
        if tag != OUTSIDE:
            if tag.startswith("I-") and previous[2:] == tag[2:]:
                phrases[-1] = (tag[2:], phrases[-1][1], word)
            else:
                phrases.append((tag[2:], word, word))
        previous = tag
    labelled: list[tuple[str, list[tuple[int, int]]]] = []
    latest: dict[str, list[tuple[int, int]]] = {}  # the parts of the last argument of each role
    for kind, first, last in phrases:
        role = _role(kind)
        if kind != role and role in latest:
            latest[role].append((first, last))
        else:
            latest[role] = [(first, last)]
            labelled.append((role, latest[role]))
    return {(role, tuple(parts)) for role, parts in labelled if role != PREDICATE}


def _role(kind: str) -> str:
    """The role of an argument of which a tag names a part: C-X is a part of X."""
    return kind.removeprefix("C-")
