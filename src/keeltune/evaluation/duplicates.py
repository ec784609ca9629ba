"""How many rows of one split are rows of another, word for word or nearly."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

RUN = 8
"""Words in a row that are compared together."""

NEARLY = 0.8
"""The share of a text's runs of words that another text must have to be nearly the same."""

COMMON = 0.02
"""The share of the training rows from which a run of words is a template's and says nothing."""

WIDE = "\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Letters of scripts without spaces between words: Chinese characters and kana."""

Words = tuple[str, ...]


class Duplicates(NamedTuple):
    """Rows that are equal to a training row, and further ones that nearly are."""

    copies: int
    nearly: int


def duplicates(rows: Sequence[Mapping[str, str]], train: Sequence[Mapping[str, str]]) -> Duplicates:
    """How many of the rows are a training row too.

    Rows are {column: text}. They are equal where their words are, in any case and with any marks. A row is nearly a
    training row where its longest text shares `NEARLY` of its runs of `RUN` words with that row's, and its other texts
    are that row's; runs that many training rows have (`COMMON`) are a template's. The training rows are gone through
    one by one: what is kept in memory is the other split's.
    """
    split = [{name: words_of(text) for name, text in row.items()} for row in rows]
    equal_to: dict[Any, list[int]] = defaultdict(list)
    with_same_other_texts: dict[Any, set[int]] = defaultdict(set)
    runs: list[set[Words]] = []
    for index, row in enumerate(split):
        longest = max(row, key=lambda name: len(row[name]))
        equal_to[_key(row)].append(index)
        with_same_other_texts[longest, _key_without(row, longest)].add(index)
        runs.append(_runs(row[longest]))
    runs = _without_templates(runs, train)
    rows_with: dict[Words, list[int]] = defaultdict(list)  # of each run
    for index, own_runs in enumerate(runs):
        for run in own_runs:
            rows_with[run].append(index)
    copies, near = set[int](), set[int]()
    for texts in train:
        row = {name: words_of(text) for name, text in texts.items()}
        copies |= set(equal_to.get(_key(row), ()))
        for name, text in row.items():
            candidates = with_same_other_texts.get((name, _key_without(row, name)), set())
            shared = Counter(index for run in (_runs(text) if candidates else ()) for index in rows_with.get(run, ()))
            near |= {
                index
                for index in shared.keys() & candidates
                if len(runs[index]) >= RUN and shared[index] >= NEARLY * len(runs[index])
            }
    return Duplicates(len(copies), len(near - copies))


def _without_templates(runs: Sequence[set[Words]], train: Sequence[Mapping[str, str]]) -> list[set[Words]]:
    """The runs that few training rows have."""
    known = set[Words]().union(*runs)
    frequency: Counter[Words] = Counter()
    for texts in train:
        frequency.update({run for text in texts.values() for run in _runs(words_of(text))} & known)
    many = max(5, COMMON * len(train))
    return [{run for run in own_runs if frequency[run] <= many} for own_runs in runs]


def _key(row: Mapping[str, Words]) -> tuple[Any, ...]:
    return tuple(sorted(row.items()))


def _key_without(row: Mapping[str, Words], left_out: str) -> tuple[Any, ...]:
    return _key({name: words for name, words in row.items() if name != left_out})


def _runs(words: Words) -> set[Words]:
    return {words[i : i + RUN] for i in range(len(words) - RUN + 1)}


def words_of(text: str) -> Words:
    """The words of a text; where it is written without spaces between them, its characters."""
    return tuple(re.findall(rf"[{WIDE}]|[^\W{WIDE}]+", text.lower())) or (text,)
