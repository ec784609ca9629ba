from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.tasks.families.text_generation import Writing
from keeltune.tasks.task import Fault, ratio
from keeltune.utils import text

ORDER, CHARACTERS = 4, 6


class Translation(Writing):
    """A text in another language. Metrics: BLEU and chrF, 0..100, by sacrebleu: tokens `13a`, and `zh` for Chinese.

    Statistics a row: BLEU's lengths of hypothesis and reference, n-grams right and in all for n = 1..4; then chrF's
    n-grams of characters, n = 1..6 (hypothesis, reference, matched). Their sums give the corpus's scores.
    Sources: Post 2018, https://aclanthology.org/W18-6319; Popović 2015, https://aclanthology.org/W15-3049.
    """

    pipeline = "translation"
    accepts_languages = True
    columns = (Column("source", "text"), Column("target", "text", label=True))
    prompt = "{source}\nTranslation:"

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("bleu", "chrf")

    def source(self, row: Row) -> str:
        return str(row.fields["source"])

    def target(self, row: Row) -> str:
        return str(row.fields["target"])

    def setup(self) -> None:
        super().setup()
        for attribute, name in zip(("src_lang", "tgt_lang"), self.settings.languages or (), strict=False):
            if hasattr(self.tokenizer, attribute):
                setattr(self.tokenizer, attribute, name)

    def recipe_faults(self) -> list[Fault]:
        known = self.tokenizer.get_vocab()
        return [
            Fault("languages", "unknown language", name, "a language that the tokenizer has a token for",
                  "write it as the tokenizer does, as in deu_Latn or de_DE; leave it out for a model of one pair")
            for name in self.settings.languages or ()
            if name not in known
        ]  # fmt: skip

    def target_language_id(self) -> int | None:
        if not self.settings.languages:
            return None
        return int(self.tokenizer.convert_tokens_to_ids(self.settings.languages[1]))

    def gold(self, row: Row) -> Any:
        return row.fields["target"]

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        from sacrebleu.metrics import BLEU, CHRF

        chinese = text.is_chinese(" ".join(golds[:200]))
        bleu = BLEU(tokenize="zh" if chinese else "13a", force=True)
        chrf = CHRF()
        table = []
        for value, gold in zip(values, golds, strict=True):
            lengths = bleu._extract_corpus_statistics([value], [[gold]])[0]
            table.append([*lengths, *chrf._extract_corpus_statistics([value], [[gold]])[0]])
        return np.array(table, dtype=np.float64).reshape(len(table), -1)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        sums = np.asarray(sums, dtype=np.float64)
        bleu, chrf = sums[..., : 2 + 2 * ORDER], sums[..., 2 + 2 * ORDER :]
        return {"bleu": _bleu(bleu), "chrf": _chrf(chrf)}

    def row_score(self, value: Any, gold: Any) -> float:
        return float(self.scores(self.statistics([value], [gold])[0])["chrf"])


def _bleu(sums: np.ndarray) -> np.ndarray:
    """100 · brevity · exp(mean log precision), an n without a match smoothed as sacrebleu does (method exp)."""
    hypothesis, reference = sums[..., 0], sums[..., 1]
    right, total = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    misses = np.cumsum((right == 0) & (total > 0), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(right > 0, right, 0.5**misses) / total
        mean = np.where(total > 0, np.log(precision), -np.inf).mean(-1)
        brevity = np.where(hypothesis < reference, np.exp(1 - reference / hypothesis), 1.0)
        value = 100 * brevity * np.exp(mean)
    return np.where((right.sum(-1) > 0) & (hypothesis > 0), value, 0.0)


def _chrf(sums: np.ndarray, beta: float = 2.0) -> np.ndarray:
    """100 · F_β of character n-grams, precision and recall averaged over the n that both sides have."""
    parts = sums.reshape(*sums.shape[:-1], CHARACTERS, 3)
    hypothesis, reference, matched = parts[..., 0], parts[..., 1], parts[..., 2]
    there = (hypothesis > 0) & (reference > 0)
    precision, recall = (
        np.divide(matched, whole, out=np.zeros_like(matched), where=there).sum(-1) / np.maximum(there.sum(-1), 1)
        for whole in (hypothesis, reference)
    )
    below = beta**2 * precision + recall
    return np.asarray(100 * ratio((1 + beta**2) * precision * recall, below))
