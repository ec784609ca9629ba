"""Predicting and scoring: the same answer however the rows are batched, and intervals that mean what they say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from keeltune.data.dataset import Row, subset
from keeltune.evaluation.bootstrap import bootstrap, share_interval
from keeltune.evaluation.intervals import metrics_of
from keeltune.evaluation.prediction import predict, prediction_rows
from keeltune.evaluation.scores import gain, score, scores_of
from keeltune.tasks.common.example import Prediction
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.text_classification import TextClassification
from keeltune.utils import registry
from tests.helpers.models import ARCHITECTURES, WORDS

LABELS = ["negative", "positive"]


def rows_of(count: int) -> list[Row]:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, random.integers(1, 20))) for _ in range(count)]
    return [Row({"text": t, "label": LABELS[i % 2]}, "f", i + 1, f"k{i}") for i, t in enumerate(texts)]


def opened(folder, **settings) -> tuple:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = "[PAD]"
        model.config.pad_token_id = tokenizer.pad_token_id
    return model, TextClassification(tokenizer, Settings(LABELS, **settings))


def table(predictions) -> np.ndarray:
    return np.array([list(p.probabilities.values()) for p in predictions])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_depend_on_neither_batch_size_nor_padding(tiny, architecture):
    model, task = opened(tiny(architecture))
    rows = rows_of(17)
    encoded = [task.encode(row) for row in rows]
    examples = [e for row in encoded for e in row]
    alone = predict(model, task, encoded, batch_size=1)
    with torch.no_grad():
        for example, found in zip(examples, alone, strict=True):
            inputs = {name: torch.tensor([value]) for name, value in example.inputs.items()}
            expected = model.eval()(**inputs).logits[0].softmax(-1)
            np.testing.assert_allclose(list(found.probabilities.values()), expected, atol=1e-6)
    for size in (2, 5, 64):
        found = predict(model, task, encoded, batch_size=size)
        np.testing.assert_allclose(table(found), table(alone), atol=1e-6)
        assert [p.loss for p in found] == pytest.approx([p.loss for p in alone], abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_it_restores_the_mode_and_leaves_the_random_state(tiny, training):
    model, task = opened(tiny("bert"))
    model.train(training)
    examples = [task.encode(row) for row in rows_of(5)]
    before = torch.get_rng_state()
    first, second = (table(predict(model, task, examples)) for _ in range(2))
    assert np.array_equal(first, second)  # no dropout
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
    task.decode = None
    with pytest.raises(TypeError):
        predict(model, task, examples)
    assert model.training is training


def test_progress_counts_every_example(tiny):
    model, task = opened(tiny("bert"))
    done: list[int] = []
    predict(model, task, [task.encode(r) for r in rows_of(10)], batch_size=4, progress=done.append)
    assert done == [4, 4, 2]


def answers(values: list[str], losses: list[float] | None = None) -> list[Prediction]:
    return [Prediction(v, None, x, 1.0) for v, x in zip(values, losses or [0.5] * len(values), strict=True)]


def labelled(labels: list[str], **fields: list[str]) -> list[Row]:
    return [
        Row({"label": label} | {name: values[i] for name, values in fields.items()}, "f", i, str(i))
        for i, label in enumerate(labels)
    ]


@pytest.mark.parametrize("right", [0, 1, 90, 99, 100])
def test_the_interval_of_a_share_is_clopper_and_pearsons(right):
    task = TextClassification(None, Settings(LABELS))
    found = score(task, answers(["positive"] * right + ["negative"] * (100 - right)), labelled(["positive"] * 100))
    exact = binomtest(right, 100).proportion_ci(method="exact")
    assert found.intervals["accuracy"] == pytest.approx((exact.low, exact.high), rel=1e-9)
    assert set(found.intervals) == set(found.metrics)


@pytest.mark.parametrize(("share", "rows"), [(0.5, 20), (0.9, 20), (0.98, 200), (0.999, 1000), (1.0, 20)])
def test_intervals_of_shares_hold_the_true_one_in_95_of_100_cases_at_least(share, rows):
    """The percentile bootstrap: 0.88, 0.90 and 0.63 at (0.9, 20), (0.98, 200) and (0.999, 1000); Wilson: 0.92 there."""
    right = np.arange(rows + 1)
    held = [low <= share <= high for low, high in (share_interval(k / rows, rows) for k in right)]
    assert binom.pmf(right, rows, share)[held].sum() >= 0.95


def test_a_score_at_its_end_has_an_interval_with_a_width():
    """Macro-F1 of 1 (no row is wrong), WER of 0, F1 of 0: at most as many rows are otherwise as are not ruled out."""
    task = TextClassification(None, Settings(LABELS))
    labels = ["positive", "negative"] * 10
    found = score(task, answers(labels), labelled(labels))
    most = 1 - 0.025 ** (1 / 20)
    assert found.intervals["macro_f1"] == found.intervals["mcc"] == pytest.approx((1 - most, 1.0))
    errors = np.stack([np.zeros(20), np.full(20, 5.0), np.full(20, 0.5), np.ones(20)], axis=1)
    speech = registry.find("tasks", "speech-recognition")
    wer = scores_of(_bare(speech, metric="wer"), np.concatenate([errors[:, :2], errors[:, :2], errors[:, 2:]], axis=1))
    assert wer.intervals["wer"] == wer.intervals["cer"] == pytest.approx((0.0, most))
    assert found.intervals["loss"][0] == found.intervals["loss"][1]  # a loss has no end: equal rows say no more


def _bare(task: type, **settings: Any) -> Any:
    class Bare(task):  # type: ignore[misc]
        def setup(self) -> None:
            pass

    return Bare(None, Settings(**settings))


def test_a_score_that_is_no_share_is_bootstrapped():
    task = TextClassification(None, Settings(LABELS))
    labels = ["positive"] * 30 + ["negative"] * 10
    found = score(task, answers([*labels[:35], *["positive"] * 5]), labelled(labels))
    drawn = bootstrap(found.table)
    expected = np.percentile(metrics_of(task, drawn)["macro_f1"], [2.5, 97.5])
    assert found.intervals["macro_f1"] == pytest.approx(tuple(expected))


def test_rows_that_are_drawn_in_clusters_count_as_fewer():
    """Ten speakers of ten rows, each all right or all wrong, are ten rows; where each is as the whole, a hundred."""
    task = TextClassification(None, Settings(LABELS))
    labels = ["positive"] * 100
    speakers = [str(i // 10) for i in range(100)]
    whole = ["positive"] * 80 + ["negative"] * 20
    low, high = score(task, answers(whole), labelled(labels, who=speakers), clusters="who").intervals["accuracy"]
    exact = binomtest(8, 10).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=0.02)
    within = (["positive"] * 8 + ["negative"] * 2) * 10
    low, high = score(task, answers(within), labelled(labels, who=speakers), clusters="who").intervals["accuracy"]
    exact = binomtest(80, 100).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high), rel=1e-9)
    low, high = score(task, answers(labels), labelled(labels, who=speakers), clusters="who").intervals["accuracy"]
    assert (low, high) == pytest.approx((0.025 ** (1 / 10), 1.0))


def test_intervals_cover_as_often_as_they_say():
    """Of 200 test sets of 80 rows from a share of 0.7, about 95 % of the intervals hold it."""
    random, held = np.random.default_rng(1), 0
    for _ in range(200):
        right = (random.random(80) < 0.7).astype(float)[:, None]
        low, high = np.percentile(bootstrap(right, resamples=400) / 80, [2.5, 97.5])
        held += low <= 0.7 <= high
    assert 180 <= held <= 198


def test_the_loss_is_weighted_by_its_counts():
    task = TextClassification(None, Settings(LABELS))
    rows = [Row({"label": "positive"}, "f", i, str(i)) for i in range(2)]
    predictions = [Prediction("positive", None, 3.0, 2.0), Prediction("negative", None, 1.0, 0.5)]
    found = score(task, predictions, rows)
    assert found.metrics["loss"] == pytest.approx(4 / 2.5)
    low, high = found.intervals["loss"]
    assert (low, high) == pytest.approx((1.5, 2.0))
    assert list(found.metrics)[-1] == "loss"
    assert score(task, predictions, rows, intervals=False).intervals == {}


def test_a_gain_is_paired():
    """90 against 80 of 100 right, 80 of them the same rows: the difference is the binomial's of the other ten."""
    task = TextClassification(None, Settings(LABELS))
    rows = [Row({"label": "positive"}, "f", i, str(i)) for i in range(100)]
    ours = score(task, answers(["positive"] * 90 + ["negative"] * 10, [0.2] * 100), rows).table
    theirs = score(task, answers(["positive"] * 80 + ["negative"] * 20, [0.5] * 100), rows).table
    assert gain(task, ours, theirs, "accuracy") == pytest.approx((0.05, 0.16), abs=0.011)
    low, high = gain(task, theirs, ours, "accuracy")
    assert (-high, -low) == pytest.approx(gain(task, ours, theirs, "accuracy"))
    assert gain(task, ours, theirs, "loss") == pytest.approx((0.3, 0.3))  # less of it is better
    assert gain(task, ours, ours, "macro_f1") == (0.0, 0.0)


def test_scores_of_some_rows_and_of_the_loss_alone():
    task = TextClassification(None, Settings(LABELS))
    rows = [Row({"label": LABELS[i % 2]}, "f", i, str(i)) for i in range(20)]
    given = answers(["positive"] * 15 + ["negative"] * 5, [float(i) for i in range(20)])
    places = subset(20, 7)
    assert len(set(places)) == 7
    assert places == sorted(places) == subset(20, 7)
    assert subset(20, None) == subset(20, 30) == list(range(20))
    whole = score(task, given, rows)
    assert scores_of(task, whole.table) == whole
    some = scores_of(task, whole.table[places])
    assert some == score(task, [given[i] for i in places], [rows[i] for i in places])
    alone = scores_of(task, whole.table[:, -2:])
    assert alone.metrics == {"loss": whole.metrics["loss"]}
    assert alone.intervals == {"loss": whole.intervals["loss"]}
    assert alone.details == {}


def test_by_label():
    task = TextClassification(None, Settings(LABELS))
    rows = [Row({"label": x}, "f", i, str(i)) for i, x in enumerate(["positive"] * 3 + ["negative"])]
    details = score(task, answers(["positive", "positive", "negative", "negative"]), rows).details
    assert details["by_label"] == {
        "negative": {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "rows": 1},
        "positive": {"precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8), "rows": 3},
    }
    json.dumps(details, allow_nan=False)


def test_prediction_lines():
    task = TextClassification(None, Settings(LABELS))
    rows = [Row({"text": "t", "label": "positive"}, "f", 7, "abc")]
    prediction = Prediction("negative", {"negative": 0.75, "positive": 0.25}, 1.4, 1.0)
    (line,) = prediction_rows(task, [prediction], rows)
    assert line == {
        "key": "abc", "row": 7, "prediction": "negative", "gold": "positive", "score": 0.0,
        "probabilities": {"negative": 0.75, "positive": 0.25}, "loss": 1.4, "predictions": 1.0,
    }  # fmt: skip
    assert "gold" not in prediction_rows(task, [prediction], rows, labelled=False)[0]


def test_rows_without_a_labelled_prediction_have_no_loss():
    """As recordings that are answered in parts: of some, the loss is the others'; of all, there is none, not 0."""
    task = registry.find("tasks", "translation").__new__(registry.find("tasks", "translation"))
    task.settings = Settings(config=None)
    answers = ["one two three four"] * 3
    statistics = task.statistics(answers, answers)
    mixed = scores_of(task, np.column_stack([statistics, [6.0, 0.0, 0.0], [3.0, 0.0, 0.0]]))
    assert mixed.metrics["loss"] == 2.0 and mixed.intervals["loss"] == (2.0, 2.0)
    none = scores_of(task, np.column_stack([statistics, np.zeros((3, 2))]))
    assert "loss" not in none.metrics and list(none.metrics) == list(none.intervals) == ["bleu", "chrf"]
