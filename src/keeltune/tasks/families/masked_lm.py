"""MaskedLm tokens: what a pretrained encoder knew of language before it got a task's head."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED, Rows
from keeltune.tasks.common import lm_head
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.padding import pad_tokens
from keeltune.tasks.metrics.metric import Metric
from keeltune.tasks.task import Task

SHARE = 0.15
"""The share of a row's tokens that are masked, one at least: BERT's (Devlin et al. 2019,
https://arxiv.org/abs/1810.04805); all of them become the mask token, as nothing is learnt from the word itself."""


class MaskedLm(Task):
    """The tokens that stand under masks: N = masked tokens, C = V. They carry D alone, so nothing of this is scored.

    Which tokens of a row are masked is a function of the seed and the row's key, never of the epoch or the batch.
    """

    auto_models: ClassVar[tuple[str, ...]] = ("AutoModelForMaskedLM",)
    answer = "tokens"
    scored_by: ClassVar[tuple[type[Metric], ...]] = ()
    choices = "tokens"
    seed = 0

    def of(self, example: Example) -> Example:
        """An example of a task's, its words masked."""
        ids = list(example.inputs["input_ids"])
        special = set(self.tokenizer.all_special_ids)
        plain = [place for place, token in enumerate(ids) if token not in special]
        digest = hashlib.sha256(f"{self.seed}:{example.key}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        count = min(len(plain), max(1, round(SHARE * len(plain))))
        chosen = {int(place) for place in random.choice(plain, count, replace=False)} if plain else set()
        masked = [self.tokenizer.mask_token_id if place in chosen else token for place, token in enumerate(ids)]
        return replace(
            example,
            inputs={**example.inputs, "input_ids": masked},
            targets=[IGNORED] * len(chosen),
            weights=[1.0] * len(chosen),
            predicted=[place in chosen for place in range(len(ids))],
            count=None,
            others={},
        )

    def pad(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return pad_tokens(self.tokenizer, inputs)

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        return self.padding_effect.forward(model, batch, selects=True)

    def rows(self, outputs: Any, batch: Mapping[str, Any], order: Sequence[int] | None = None) -> Rows:
        return lm_head.rows(outputs, batch)

    @property
    def reported(self) -> tuple[str, ...]:
        return ("loss",)

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        raise NotImplementedError("masked tokens are made of another task's examples")

    def gold(self, row: Row) -> Any:
        raise NotImplementedError("masked tokens are not scored")
