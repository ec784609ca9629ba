"""Which rows are held out for validation where a recipe names none: a share of each label, whole groups of them.

Rows that share an input are one group, be it in another case or with other marks: copies, the questions about one text,
the predicates of one sentence, the clips of one speaker where `evaluation.clusters` names that column. A group lies on
one side, so that no validation row was seen in training. An input that most rows share (one text for all questions)
makes no groups: nothing could be held out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.data.columns import Column
from keeltune.data.dataset import Row, take
from keeltune.data.media import Media

SHARE = 0.1

AT_LEAST = 40
"""Rows that are held out of few, where that is no more than `AT_MOST` of them."""

AT_MOST = 0.2

ENOUGH = 1000
"""Rows that say enough; of answers that are written, which takes long, `WRITTEN`."""

WRITTEN = 200

FEWEST = 100
"""Rows below which none are held out: a fifth of them would say nothing, and is needed to learn from."""

COMMON = 0.5
"""The share of the rows from which what they have in common groups nothing."""

LONG = 3
"""Words from which a text of few is taken for a row's own."""


def count(rows: int, *, written: bool) -> int:
    """How many of so many rows are held out."""
    if rows < FEWEST:
        return 0
    wanted = max(round(SHARE * rows), AT_LEAST)
    return min(wanted, int(AT_MOST * rows), WRITTEN if written else ENOUGH)


def hold_out(
    rows: Sequence[Row], columns: Sequence[Column], held: int, seed: int, clusters: str | None = None
) -> tuple[Sequence[Row], Sequence[Row]]:
    """`rows` as (train, validation), about `held` of them for validation, both in the order they had.

    A row's side depends on the rows' contents and the seed, not on their order. Of each label `held / rows` are held
    out, and one at least stays. All rows are for training where their groups are too few.
    """
    groups, labels, digests = _described(rows, columns, seed, clusters)
    chosen = _chosen(groups, labels, digests, held)
    is_chosen = np.zeros(len(rows), dtype=bool)
    is_chosen[chosen] = True
    return take(rows, np.flatnonzero(~is_chosen)), take(rows, np.flatnonzero(is_chosen))


def _described(
    rows: Sequence[Row], columns: Sequence[Column], seed: int, clusters: str | None
) -> tuple[list[list[int]], list[str], list[bytes]]:
    """The groups, as indices of rows; each row's label; and a digest of each row that the seed decides."""
    inputs = [column.name for column in columns if not column.label]
    label = next((column.name for column in columns if column.label and column.name == "label"), None)
    labels, digests, whole = list[str](), list[bytes](), list[str]()
    alike: dict[str, list[str | None]] = {
        name: [] for name in dict.fromkeys([*inputs, *([clusters] if clusters else [])])
    }
    for row in rows:
        found = row.fields.get(label) if label else ""
        labels.append(" ".join(sorted(found)) if isinstance(found, list) else str(found))
        digests.append(hashlib.sha256(f"{seed}:{row.key}".encode()).digest())
        words = {name: _words(row.fields.get(name)) for name in alike}
        whole.append("\0".join(words[name] for name in inputs))
        for name, of_rows in alike.items():
            value = row.fields.get(name)
            says_enough = isinstance(value, Media) or _long(words[name])
            of_rows.append(words[name] if says_enough or (name == clusters and value is not None) else None)
    if 2 * len(set(labels)) > len(labels):  # numbers, or answers that are each a row's own
        labels = [""] * len(labels)
    return _groups([*alike.values(), whole], len(rows)), labels, digests


def _words(value: Any) -> str:
    """A value's words in small letters, without marks; of a picture or a recording the digest of its content."""
    if isinstance(value, Media):
        return value.digest
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split()) or text


def _long(words: str) -> bool:
    """Whether two rows have it in common for a reason; where words have no spaces between them one is a sentence."""
    return words.count(" ") + 1 >= LONG or any(ord(c) >= 0x2E80 for c in words)


def _groups(columns: Sequence[Sequence[str | None]], rows: int) -> list[list[int]]:
    """Rows that are equal in a column, and those equal to them, together: [groups] of indices."""
    parent = list(range(rows))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for values in columns:
        first: dict[str, int] = {}
        counts = Counter(values)
        for i, value in enumerate(values):
            if value is not None and counts[value] <= max(2, COMMON * rows):
                parent[root(i)] = root(first.setdefault(value, i))
    together = defaultdict(list)
    for i in range(rows):
        together[root(i)].append(i)
    return list(together.values())


def _chosen(groups: Sequence[Sequence[int]], labels: Sequence[str], digests: Sequence[bytes], held: int) -> list[int]:
    """The rows of the groups that are held out: in an order by chance, each that its labels' quotas have room for."""
    order = sorted(groups, key=lambda group: min(digests[i] for i in group))
    there = Counter(labels)
    quota = _quotas(there, held, len(labels))
    chosen, taken = list[int](), Counter[str]()
    for strict in (True, False):  # then what groups of several labels left open
        left = []
        for group in order:
            of_group = Counter(labels[i] for i in group)
            room = len(chosen) + len(group) <= held
            if room and all(taken[x] + n <= (quota[x] if strict else there[x] - 1) for x, n in of_group.items()):
                chosen += group
                taken.update(of_group)
            else:
                left.append(group)
        order = left
    return chosen if 2 * len(chosen) >= held else []


def _quotas(there: Counter[str], held: int, rows: int) -> dict[str, int]:
    """How many rows of each label: held · n / rows, rounded so that they sum to `held`; one at least stays."""
    exact = {name: held * n / rows for name, n in there.items()}
    quota = {name: min(int(value), there[name] - 1) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name)):
        if sum(quota.values()) >= held:
            break
        quota[name] += int(quota[name] < there[name] - 1)
    return quota
