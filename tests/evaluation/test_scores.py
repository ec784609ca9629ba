"""Predicting and scoring: the same answer however the rows are batched, and intervals that mean what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from keeltune.data.dataset import Row, subset
from keeltune.evaluation.bootstrap import bootstrap
from keeltune.evaluation.prediction import predict, prediction_rows
from keeltune.evaluation.scores import gain, score, scores_of
from keeltune.tasks.common.example import Prediction
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.text_classification import TextClassification
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


def test_the_interval_is_the_binomials():
    """90 of 100 right: the bootstrap of a share is the binomial's, whose 2.5 and 97.5 % quantiles are 84 and 95."""
    task = TextClassification(None, Settings(LABELS))
    rows = [Row({"label": "positive"}, "f", i, str(i)) for i in range(100)]
    found = score(task, answers(["positive"] * 90 + ["negative"] * 10), rows)
    low, high = found.intervals["accuracy"]
    assert found.metrics["accuracy"] == 0.9
    assert (low, high) == pytest.approx((0.84, 0.95), abs=0.011)
    assert set(found.intervals) == set(found.metrics)


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
