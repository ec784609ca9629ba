"""BLEU, chrF and ROUGE as sums of statistics, against the libraries that define them."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from keeltune.tasks.common.settings import Settings
from keeltune.utils.registry import find

WORDS = [
    "a",
    "the",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "big",
    "small",
    "red",
    "ran,",
    "fast.",
    "over",
    "under",
    "house",
    "tree",
    "isn't",
    "it's",
    "3.5",
]
CHINESE = "今天天气很好我们去公园散步看见一只大黑狗和两只小猫"


def task(name: str):
    class Bare(find("tasks", name)):  # no model is needed to score
        def setup(self) -> None:
            pass

    return Bare(None, Settings())


def texts(seed: int, count: int = 60, least: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(least, 15))) for _ in range(count)]


def near(golds: list[str], seed: int) -> list[str]:
    """Answers that share long stretches with the right ones."""
    random = np.random.default_rng(seed)
    kept = [[w for w in gold.split() if random.random() > 0.2] for gold in golds]
    return [" ".join(words) for words in kept]


@pytest.mark.parametrize(("values", "golds"), [
    (near(texts(1, least=5), 2), texts(1, least=5)), (texts(3), texts(4, least=1)),
    (["cat", "a dog"], ["cat", "dog in here now"]),
    (["", ""], ["a cat", "dog"]), (texts(1, least=5), texts(1, least=5)),
])  # fmt: skip
def test_bleu_and_chrf_are_sacrebleus(values, golds):
    translation = task("translation")
    scores = translation.scores(translation.statistics(values, golds).sum(0))
    assert tuple(scores) == translation.metrics == ("bleu", "chrf")
    assert float(scores["bleu"]) == pytest.approx(sacrebleu.corpus_bleu(values, [golds]).score, abs=1e-9)
    assert float(scores["chrf"]) == pytest.approx(sacrebleu.corpus_chrf(values, [golds]).score, abs=1e-9)


def test_resampled_sums_are_the_scores_of_the_resampled_corpus():
    translation = task("translation")
    values, golds = near(texts(1, least=5), 2), texts(1, least=5)
    statistics = translation.statistics(values, golds)
    draws = np.random.default_rng(0).integers(0, len(values), (5, len(values)))
    counts = np.stack([np.bincount(draw, minlength=len(values)) for draw in draws])
    found = translation.scores(counts @ statistics)
    for draw, bleu, chrf in zip(draws, found["bleu"], found["chrf"], strict=True):
        v, g = [values[i] for i in draw], [golds[i] for i in draw]
        assert bleu == pytest.approx(sacrebleu.corpus_bleu(v, [g]).score, abs=1e-9)
        assert chrf == pytest.approx(sacrebleu.corpus_chrf(v, [g]).score, abs=1e-9)


def test_chinese_bleu_counts_characters():
    translation = task("translation")
    values, golds = [CHINESE[:10], CHINESE[4:12]], [CHINESE[:9], CHINESE[4:14]]
    scores = translation.scores(translation.statistics(values, golds).sum(0))
    expected = sacrebleu.corpus_bleu(values, [golds], tokenize="zh").score
    assert float(scores["bleu"]) == pytest.approx(expected, abs=1e-9)
    assert expected > sacrebleu.corpus_bleu(values, [golds]).score


def test_rouge_is_rouge_scores_and_the_best_reference_counts():
    summarization = task("summarization")
    golds = texts(5, least=3)
    values = near(golds, 6)
    scorer = RougeScorer(["rougeL", "rouge1", "rouge2"], use_stemmer=True)
    statistics = summarization.statistics(values, [[gold] for gold in golds])
    found = summarization.scores(statistics.sum(0))
    assert tuple(found) == summarization.metrics
    for name, value in found.items():
        expected = np.mean([scorer.score(g, v)[name].fmeasure for v, g in zip(values, golds, strict=True)])
        assert float(value) == pytest.approx(expected, abs=1e-12)
    two = summarization.statistics(values, [["nothing at all", gold] for gold in golds])
    assert (two >= statistics - 1e-12).all()
    assert summarization.row_score("the cat sat", ["dogs", "the cat sat"]) == 1.0
    assert summarization.row_score("running dogs", ["run dog"]) == 1.0  # the stemmer


def test_rouge_of_chinese_counts_characters():
    summarization = task("summarization")
    ((rouge_l, rouge_1, rouge_2, one),) = summarization.statistics(["天气很好。"], [["今天天气很好"]])
    assert one == 1
    assert rouge_1 == pytest.approx(2 * 4 / (4 + 6))  # 天气很好 of 6 characters, the full stop is no character of it
    assert rouge_l == pytest.approx(0.8)
    assert rouge_2 == pytest.approx(2 * 3 / (3 + 5))


def test_exact_match_looks_past_spaces():
    generation = task("text-generation")
    sums = generation.statistics(["a  b", "a c"], ["a b", "a b"]).sum(0)
    assert float(generation.scores(sums)["exact_match"]) == 0.5
