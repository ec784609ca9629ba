"""The guard: signs with known answers, the pace of evaluations, and runs that show what they should."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from keeltune import recipe
from keeltune.evaluation import miscalibration, overfitting
from keeltune.evaluation.calibration import of_lines, reliability, tempered
from keeltune.training import early_stopping
from keeltune.training.preparation import prepare
from tests.helpers.runs import make_data, reviews, spec_of, train, write_rows


def sign(result, name):
    return next(s for s in result["overfitting"]["signals"] if s["name"] == name)


@pytest.mark.parametrize(
    ("train_score", "validation", "fell", "light"),
    [(0.91, 0.90, 0.02, "green"), (0.97, 0.90, 0.02, "amber"), (1.0, 0.85, 0.0, "amber"), (1.0, 0.85, 0.02, "red")],
)
def test_the_gap_is_red_only_where_validation_fell_too(train_score, validation, fell, light):
    found = overfitting.gap(train_score, validation, "accuracy", 1.0, fell=fell)
    assert found.light == light
    assert found.value == pytest.approx(train_score - validation)


def test_a_gap_of_error_rates_and_of_scores_to_a_hundred():
    assert overfitting.gap(0.02, 0.20, "wer", -1.0, fell=0.5).value == pytest.approx(0.18)
    assert overfitting.gap(38.0, 34.0, "bleu", 1.0, fell=0.5).light == "green"
    assert overfitting.gap(1.0, 3.0, "loss", -1.0, fell=0.5) is None
    assert overfitting.gap(1.2, 0.6, "cider", 1.0, fell=0.5).value == pytest.approx(0.06)


def test_a_loss_that_rises_for_three_evaluations():
    falling = overfitting.rising([0.9, 0.8, 0.7], [0.5, 0.6, 0.7], 1.0)
    short = overfitting.rising([0.9, 0.5, 0.6, 0.7], [0.5, 0.6, 0.7, 0.7], 1.0)
    sure = overfitting.rising([0.9, 0.5, 0.6, 0.7, 0.8], [0.5, 0.6, 0.7, 0.7, 0.7], 1.0)
    worse = overfitting.rising([0.9, 0.5, 0.6, 0.7, 0.8], [0.5, 0.8, 0.7, 0.7, 0.6], 1.0)
    assert [s.light for s in (falling, short, sure, worse)] == ["green", "green", "amber", "red"]
    assert worse.value == pytest.approx(0.3)
    assert overfitting.rising([0.5], [0.5], 1.0) is None


def test_nothing_learnt_is_the_entropy_of_the_labels_not_log_c():
    labels = {"a": 900, "b": 100}
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert overfitting.nothing_learnt(entropy, labels, 100).light == "red"
    assert overfitting.nothing_learnt(entropy, labels, 99).light == "amber"
    assert overfitting.nothing_learnt(entropy, labels, 100).value == pytest.approx(1.0)
    assert overfitting.nothing_learnt(0.9 * entropy, labels, 100).light == "green"
    assert overfitting.nothing_learnt(0.1, {"a": 10}, 100) is None


def test_gradients_that_vanish_or_explode():
    assert overfitting.gradients([1.0] * 6 + [1e-3] * 6).light == "amber"
    assert overfitting.gradients([1.0, 1.0, 50.0, 1.0, 1.0, 1.0]).light == "amber"
    assert overfitting.gradients([1.0, 0.9, 0.8, 0.7, 0.6]).light == "green"
    assert overfitting.gradients([1.0, math.nan]) is None


def test_confident_errors_are_held_against_what_probabilities_promise():
    def lines(wrong, right, p=0.97):
        sure = {"prediction": "a", "probabilities": {"a": p, "b": 1 - p}}
        return [{**sure, "score": 0}] * wrong + [{**sure, "score": 1}] * right

    calibrated = overfitting.confident_errors(lines(3, 97))
    assert calibrated.light == "green"  # all of its errors are confident, as they must be
    over = overfitting.confident_errors(lines(20, 80))
    assert over.light == "red"
    assert over.value == pytest.approx((20 - 3) / math.sqrt(100 * 0.97 * 0.03))
    assert overfitting.confident_errors(lines(1, 18)) is None
    assert overfitting.confident_errors(lines(20, 80, p=0.8)) is None
    several = [{"prediction": ["a"], "score": 0.5, "probabilities": {"a": 0.99, "b": 0.4}}] * 50
    assert overfitting.confident_errors(several) is None


def test_a_calibrated_model_is_not_called_out_for_few_rows():
    rng = np.random.default_rng(0)
    lines = [
        {"prediction": "a", "probabilities": {"a": 0.9, "b": 0.1}, "gold": "a" if rng.random() < 0.9 else "b"}
        for _ in range(60)
    ]
    found = of_lines(lines)
    assert found["ece_by_chance"] == pytest.approx(0.8 * math.sqrt(0.09 / 60), rel=0.3)  # E|N(0, σ)|, one bin
    assert miscalibration.miscalibration(found).light == "green"
    assert of_lines(lines, fit=False)["temperature"] is None


def test_the_first_red_light_names_the_verdict():
    red = overfitting.shared([{"text": "a"}, {"text": "b"}], [{"text": "a"}, {"text": "c"}])
    assert red.value == 0.5
    found = overfitting.report([overfitting.gap(1.0, 0.9, "accuracy", 1.0, fell=0.5), None, red])
    assert found["verdict"] == overfitting.VERDICTS["duplicates"]
    assert overfitting.report([])["verdict"] == "no sign of overfitting"


def test_copies_are_found_word_for_word_and_nearly():
    long = " ".join(f"w{i}" for i in range(40))
    train = [{"text": long}, {"text": "A film, good!"}, {"question": "who?", "context": long}]
    assert overfitting.shared([{"text": "a FILM good"}, {"text": "a film bad"}], train).value == 0.5
    changed = " ".join(["new", *long.split()[1:], "end"])
    assert overfitting.shared([{"text": changed}], train).value == 1.0
    assert overfitting.shared([{"text": " ".join(reversed(long.split()))}], train).value == 0.0
    other_question = overfitting.shared([{"question": "where?", "context": long}], train)
    assert other_question.value == 0.0  # a context is asked about more than once
    same = [{"tokens": long, "predicate_index": "3"}]
    assert overfitting.shared([{"tokens": long, "predicate_index": "5"}], same).value == 0.0


def test_a_template_is_no_copy():
    prompt = " ".join(f"p{i}" for i in range(60))
    train = [{"prompt": f"{prompt} question {i} of {i * 7} and {i * 11}"} for i in range(400)]
    held = [{"prompt": f"{prompt} something else {i} entirely {i * 3}"} for i in range(50)]
    assert overfitting.shared(held, train).value == 0.0
    assert overfitting.shared([train[3]], train).value == 1.0


def test_calibration_of_lines_is_that_of_their_probabilities():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1.0, 4000)
    right = rng.uniform(size=4000) < p**2 / (p**2 + (1 - p) ** 2)  # logits are half of what they should be
    lines = [
        {"probabilities": {"a": float(q), "b": float(1 - q)}, "gold": "a" if r else "b"}
        for q, r in zip(p, right, strict=True)
    ]
    found = of_lines(lines)
    assert found["temperature"] == pytest.approx(0.5, abs=0.05)
    assert found["ece_after"] < 0.03 < found["ece"]
    assert sum(n for *_, n in found["bins"]) == 4000
    assert of_lines(lines, 1.0, fit=False)["ece_after"] == pytest.approx(found["ece"])
    assert tempered({"a": 0.8, "b": 0.2}, 0.5)["a"] == pytest.approx(0.64 / 0.68)
    assert tempered({"a": 0.8, "b": 0.5}, 0.5, several=True) == pytest.approx({"a": 0.64 / 0.68, "b": 0.5})


def test_several_labels_are_calibrated_as_yes_and_no():
    lines = [{"probabilities": {"a": 0.9, "b": 0.2}, "gold": ["a"]}] * 30 + [
        {"probabilities": {"a": 0.9, "b": 0.2}, "gold": []}
    ] * 10
    found = of_lines(lines)
    assert found["predictions"] == 80
    # a: 0.9 sure and 30 of 40 right; b: 0.8 sure and all right
    assert found["ece"] == pytest.approx((40 * 0.15 + 40 * 0.2) / 80)


def test_a_reliability_plot_has_bins_of_twenty_and_more():
    import torch

    log_probs = torch.tensor([[0.7, 0.3]], dtype=torch.float64).log().repeat(45, 1)
    bins = reliability(log_probs, torch.zeros(45, dtype=torch.long))
    assert [n for *_, n in bins] == [23, 22]
    assert all(b[:2] == pytest.approx([0.7, 1.0]) for b in bins)


def test_near_copies_without_spaces_between_words():
    rng = random.Random(0)
    texts = ["".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(150)) for _ in range(30)]
    nearly = [{"text": text[:70] + "变" + text[71:]} for text in texts]
    found = overfitting.shared(nearly, [{"text": text} for text in texts])
    assert found.value == 1
    other = ["".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(150)) for _ in range(30)]
    assert overfitting.shared([{"text": text} for text in other], [{"text": text} for text in texts]).value == 0


# The pace


def material(tiny, folder, *, epochs: int, rows: int, validation: int, **changes):
    made = reviews(rows + validation, seed=3)
    write_rows(folder / "p-train.jsonl", made[:rows])
    write_rows(folder / "p-validation.jsonl", made[rows:])
    values = spec_of("fine-tuning", tiny("bert"), training={"epochs": epochs, "batch_size": 8}, **changes)
    values["data"] = {"train": "p-train.jsonl", "validation": "p-validation.jsonl"}
    return prepare.prepare(recipe.from_dict(values, folder))


def test_evaluations_are_often_where_they_are_cheap(tiny, tmp_path):
    make_data(tmp_path)
    cheap = early_stopping.evaluation_schedule(material(tiny, tmp_path, epochs=2, rows=320, validation=12))
    assert cheap.every == 8  # 80 steps, 640 rows trained: ten evaluations of 12 rows cost less than a tenth
    dear = early_stopping.evaluation_schedule(material(tiny, tmp_path, epochs=2, rows=320, validation=200))
    assert dear.every is None
    assert (cheap.patience, cheap.not_before) == (early_stopping.PATIENCE, 32)
    said = material(tiny, tmp_path, epochs=2, rows=320, validation=12, evaluation={"every": 3, "patience": 2})
    assert early_stopping.evaluation_schedule(said) == early_stopping.EvaluationSchedule(3, 2, 0)
    never = material(tiny, tmp_path, epochs=2, rows=320, validation=12, evaluation={"patience": None})
    assert early_stopping.evaluation_schedule(never).patience is None


# Whole runs


@pytest.fixture
def data(tmp_path):
    make_data(tmp_path)
    return tmp_path


def run_on(tiny, folder, train_rows, validation_rows, epochs=40, rate=1e-2, output="guarded", **changes):
    write_rows(folder / "o-train.jsonl", train_rows)
    write_rows(folder / "o-validation.jsonl", validation_rows)
    values = spec_of("fine-tuning", tiny("bert"), **changes)
    values["data"] = {"train": "o-train.jsonl", "validation": "o-validation.jsonl"}
    values["training"] = {"epochs": epochs, "batch_size": 8, "learning_rate": rate, "precision": "fp32"}
    return train(values, folder, output=output)


def test_shuffled_labels_are_called_out(tiny, data):
    rows = reviews(400, seed=11)  # good and bad in turn, so that every second pair is independent of them
    shuffled = [{**row, "label": "positive" if i % 4 < 2 else "negative"} for i, row in enumerate(rows[:60])]
    done = run_on(tiny, data, shuffled, rows[60:], evaluation={"patience": None, "every": 80}, epochs=20,
                  rate=3e-3)  # fmt: skip
    found = sign(done.result, "beyond chance")
    assert found["light"] == "red"
    assert "do labels and rows belong together?" in found["said"]
    assert done.result["overfitting"]["verdict"] == overfitting.VERDICTS["beyond chance"]


def test_a_duplicated_validation_set_is_called_out(tiny, data):
    rows = reviews(60, seed=12)
    done = run_on(tiny, data, rows, rows[:30], epochs=20, evaluation={"every": 40})
    assert sign(done.result, "duplicates")["light"] == "red"
    assert done.result["overfitting"]["verdict"] == overfitting.VERDICTS["duplicates"]


def test_training_ends_early_and_keeps_the_best(tiny, data, capsys):
    rows = reviews(80, seed=13)
    done = run_on(tiny, data, rows[:16], rows[16:80], epochs=60, rate=2e-2)
    log = [e for e in _log(done.folder) if "eval_accuracy" in e]
    best = max((e["eval_accuracy"], -e["eval_loss"]) for e in log)
    steps = done.result["training"]["steps"]
    assert steps < 120
    assert steps >= math.ceil(early_stopping.NOT_BEFORE * 120)
    assert done.result["metrics"]["validation"]["accuracy"] == pytest.approx(best[0])


EVERY = {"patience": None, "every": 50}


def test_a_run_that_learns_nothing_says_so(tiny, data):
    rows = reviews(60, seed=14)
    done = run_on(tiny, data, rows[:40], rows[40:], epochs=20, rate=1e-9, evaluation=EVERY)
    assert sign(done.result, "learnt")["light"] == "red"
    assert overfitting.stuck(done.result) == sign(done.result, "learnt")["said"]
    learning = run_on(tiny, data, rows[:40], rows[40:], epochs=20, rate=1e-2, evaluation=EVERY, output="learning")
    assert sign(learning.result, "learnt")["light"] != "red"
    assert overfitting.stuck(learning.result) is None


def _log(folder):
    import json

    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
