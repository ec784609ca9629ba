from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from keeltune.tasks.common.tag_schemes import OUTSIDE, spans
from keeltune.tasks.metrics._span_f1 import SpanF1

PREDICATE = "V"

Argument = tuple[str, tuple[tuple[int, int], ...]]
"""A role and its parts, each from its first word to its last."""


class ArgumentF1(SpanF1):
    """F1, precision and recall of a predicate's arguments over all roles, 0..1, as CoNLL-2005's srl-eval.pl counts.

    An argument is right if its role and all of its parts are, to the word. C-X goes on with the last X before it, which
    is then one argument of several parts; without an X it is an X itself. R-X is a role of its own. V, the predicate,
    is left out, and C-V with it. An I-X that follows neither B-X nor I-X begins an argument, as in conlleval: srl-eval
    reads brackets, and has no such case; data with it is refused.
    Statistics a row: arguments right, predicted and gold, of each role in turn; those of roles never learnt together.
    Source: Carreras & Màrquez 2005, https://aclanthology.org/W05-0620.
    """

    library = "checked against an independent count by the rules of srl-eval.pl"

    def kinds_of(self, labels: Sequence[str]) -> Collection[str]:
        """The roles that the labels have, but for the predicate's own."""
        return {_role(name[2:]) for name in labels if name != OUTSIDE} - {PREDICATE}

    def spans(self, tags: Sequence[str]) -> set[tuple[str, Any]]:
        return set(arguments(tags))


def arguments(tags: Sequence[str]) -> set[Argument]:
    """The arguments that BIO tags stand for, V left out: (role, ((first word, last word), …))."""
    labelled: list[tuple[str, list[tuple[int, int]]]] = []
    latest: dict[str, list[tuple[int, int]]] = {}  # the parts of the last argument of each role
    for kind, first, last in spans(tags):
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
