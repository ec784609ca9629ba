from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.tasks.families.text_generation import Writing
from keeltune.utils.text import apart, is_chinese

NAMES = ("rougeL", "rouge1", "rouge2")


class Summarization(Writing):
    """A short text that says what a long one says, by an encoder-decoder or, behind a prompt, by a decoder.

    Metrics: ROUGE-L, ROUGE-1, ROUGE-2, F-measures 0..1 by rouge-score with its stemmer, Chinese by character; of
    several `references` the one that scores best counts. Statistics a row: its three F-measures and 1.
    Source: Lin 2004, https://aclanthology.org/W04-1013.
    """

    pipeline = "summarization"
    columns = (
        Column("document", "text"),
        Column("summary", "text", label=True),
        Column("references", "texts", required=False, label=True),
    )
    prompt = "{document}\nTL;DR:"

    @property
    def metrics(self) -> tuple[str, ...]:
        return NAMES

    def source(self, row: Row) -> str:
        return str(row.fields["document"])

    def target(self, row: Row) -> str:
        return str(row.fields["summary"])

    def gold(self, row: Row) -> Any:
        return list(row.fields.get("references") or [row.fields["summary"]])

    @cached_property
    def scorer(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

        english = DefaultTokenizer(use_stemmer=True)

        class Tokens:
            """rouge-score's own words, which knows Latin letters and digits alone; Chinese characters one by one."""

            def tokenize(self, text: str) -> list[str]:
                if not is_chinese(text):
                    return list(english.tokenize(text))
                return [t for t in apart(text).split() if any(c.isalnum() for c in t)]

        return RougeScorer(list(NAMES), tokenizer=Tokens())

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        table = []
        for value, references in zip(values, golds, strict=True):
            best = self.scorer.score_multi(references, value)
            table.append([*(best[name].fmeasure for name in NAMES), 1.0])
        return np.array(table).reshape(len(table), len(NAMES) + 1)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        return {name: sums[..., i] / np.maximum(sums[..., -1], 1) for i, name in enumerate(NAMES)}

    def row_score(self, value: Any, gold: Any) -> float:
        return float(self.statistics([value], [gold])[0, 0])
