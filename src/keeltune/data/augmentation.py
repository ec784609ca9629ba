"""Variants of a text: a part of it, or some of its words left out. Only the teacher labels them.

    data: {augment: {word_dropout: 0.1, crops: true, variants: 4}}

A text without some of its words may no longer be what its label says ("not bad" without "not"), so a variant has no
label of the data. The teacher's answer to it is right by definition; more of them show more of the teacher. Their
number is finite, so that answers can be cached.

Sources: word dropout, Iyyer et al. 2015, https://aclanthology.org/P15-1162; texts for a teacher made by masking words
and cutting out n-grams, Tang et al. 2019, https://arxiv.org/abs/1903.12136.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Protocol

import numpy as np

from keeltune.data.columns import Schema
from keeltune.data.dataset import Row, row_key
from keeltune.recipe.data_fields import Augment
from keeltune.utils.text import word_places


class WholeTexts(Schema, Protocol):
    """What variants ask of a task: the columns of text of which a part can be left out."""

    whole_texts: ClassVar[tuple[str, ...]]


def variants(row: Row, task: type[WholeTexts], spec: Augment, seed: int) -> list[Row]:
    """The row's variants, its columns without labels, keyed by row, variant and the text that was made.

    Each is a function of the seed, the variant's number and the row's key. The key holds 16 hexadecimal digits of the
    content, as another seed or another `spec` makes other texts of one row.
    """
    names = [column.name for column in task.columns if not column.label and column.name in row.fields]
    results = []
    for number in range(spec.variants):
        fields = {name: row.fields[name] for name in names}
        for name in (name for name in names if name in task.whole_texts):
            digest = hashlib.sha256(f"{seed}:{number}:{name}:{row.key}".encode()).digest()
            fields[name] = varied(fields[name], spec.word_dropout, spec.crops, np.random.default_rng([*digest]))
        results.append(replace(row, fields=fields, key=f"{row.key}~{number}-{row_key(fields, names)[:16]}"))
    return results


def varied(text: str, word_dropout: float, crops: bool, random: np.random.Generator) -> str:
    """A crop of the text's n words, ⌈n/2⌉ … n of them at any place, each of which is then left out at the rate given.

    At least one word is kept. Chinese is cut by character. White space stays as it was between words that stay
    neighbours.
    """
    spans = word_places(text)
    size = int(random.integers((len(spans) + 1) // 2, len(spans) + 1)) if crops else len(spans)
    first = int(random.integers(len(spans) - size + 1))
    stays = random.random(size) >= word_dropout
    stays[random.integers(size)] |= not stays.any()
    return _joined(text, spans, first + np.flatnonzero(stays))


def _joined(text: str, spans: Sequence[tuple[int, int]], indices: np.ndarray) -> str:
    """The words at `indices`, in order; between two of them the last white space that was there, if any was."""
    pieces = [text[slice(*spans[indices[0]])]]
    for before, after in pairwise(indices):
        gaps = (text[spans[i - 1][1] : spans[i][0]] for i in range(after, before, -1))
        pieces += [next((gap for gap in gaps if gap), ""), text[slice(*spans[after])]]
    return "".join(pieces)
