"""Any metric chooses the best weights: of one label, of the probabilities, of a function of the user's own."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

import keeltune as kt
from keeltune import recipe
from keeltune.evaluation import bootstrap
from keeltune.runs import comparison
from keeltune.tasks.common.scoring import Scoring
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.metrics import _whole, higher_is_better
from keeltune.tasks.metrics._function import of_function
from keeltune.tasks.metrics._whole import LIMIT, forgotten
from keeltune.tasks.metrics.classification import Classification
from keeltune.tasks.metrics.expected_calibration_error import ExpectedCalibrationError, expected_error, predictions_of
from keeltune.training.preparation.prepare import prepare
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import runs

QUIET = Display(quiet=True)

OWN = '''
    from sklearn.metrics import roc_auc_score


    def cost(predictions, references):
        """What mistakes cost, a row."""
        return [5.0 * (p != r) if r == "positive" else 1.0 * (p != r) for p, r in zip(predictions, references)]


    cost.greater_is_better = False


    def positives(predictions, references):
        return predictions.count("positive") / len(predictions)


    def both(predictions, references):
        return {"ones": 1.0, "rate": positives(predictions, references)}


    both.names = ("ones", "rate")


    def auc(probabilities, references):
        return roc_auc_score([r == "positive" for r in references], [p["positive"] for p in probabilities])


    def raises(predictions, references):
        return 1 / (len(set(predictions)) - 2)


    def nan(predictions, references):
        return float("nan")


    def short(predictions, references):
        return [1.0]


    def text(predictions, references):
        return "good"


    def unnamed(predictions, references):
        return {"a": 1.0, "b": 2.0}


    def lonely(predictions):
        return 1.0
'''


@pytest.fixture
def spec(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(runs.make_data(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_metrics.py").write_text(textwrap.dedent(OWN), encoding="utf-8")

    def of(**evaluation: Any) -> dict[str, Any]:
        training = {"max_steps": 10, "batch_size": 4, "learning_rate": 2e-2, "precision": "fp32", "logging_steps": 5}
        schedule = {"every": 1, "patience": None}
        return runs.spec_of("fine-tuning", tiny("bert"), training=training, evaluation=schedule | evaluation)

    return of


def chosen(run: kt.Run, metric: str, better: Any) -> None:
    """The weights that are kept are those of the best evaluation by this metric."""
    measured = [entry[f"eval_{metric}"] for entry in runs.lines(run.folder / "log.jsonl") if f"eval_{metric}" in entry]
    assert len(measured) == 10 and len(set(measured)) > 1
    assert run.result["metrics"]["validation"][metric] == pytest.approx(better(measured), rel=1e-5)
    assert next(iter(run.result["metrics"]["validation"])) == metric
    low, high = run.result["intervals"]["test"][metric]
    assert low <= run.result["metrics"]["test"][metric] <= high


@pytest.mark.slow  # a training for each metric
def test_the_best_weights_are_another_ones_by_another_metric(spec):
    kept = {}
    for metric, better in (
        ("recall.positive", max), ("recall.negative", max), ("ece", min),
        ("own_metrics:cost", min), ("own_metrics:auc", max),
    ):  # fmt: skip
        run = kt.train(spec(metric=metric) | {"output": metric.replace(":", "-")}, display=QUIET)
        name = metric.rpartition(":")[2]
        chosen(run, name, better)
        kept[name] = run
    assert runs.furthest(kept["recall.positive"], kept["recall.negative"]) > 0
    lines = runs.lines(run.folder / "predictions" / "test.jsonl")
    positive = [line["gold"] == "positive" for line in lines]
    expected = roc_auc_score(positive, [line["probabilities"]["positive"] for line in lines])
    assert run.result["metrics"]["test"]["auc"] == pytest.approx(expected)
    # a folder from somebody else executes nothing: the task's own metric is compared
    assert comparison.compare([run.folder, run.folder])["metric"] == "accuracy"


def test_the_direction_is_the_recipes_word(spec):
    given = spec(metric={"name": "own_metrics:positives", "greater_is_better": False})
    run = kt.train(given, display=QUIET)
    chosen(run, "positives", min)
    again = recipe.load(run.folder / "recipe.yaml")
    assert again.evaluation.directions == {"own_metrics:positives": False}


def test_several_scores_of_one_function_are_reported(spec):
    seeds = spec(metrics=["own_metrics:both", "own_metrics:cost", "brier"])
    seeds["training"] |= {"seed": [0, 1], "max_steps": 2}
    run = kt.train(seeds, display=QUIET)
    found, parts = run.result["metrics"]["test"], [json.loads((p / "result.json").read_text()) for p in run.parts]
    for name in ("ones", "rate", "cost", "brier"):
        assert found[name] == pytest.approx(np.mean([part["metrics"]["test"][name] for part in parts]))
        low, high = run.result["intervals"]["test"][name]
        assert low <= found[name] <= high
    assert higher_is_better("ones") and not higher_is_better("cost")


@pytest.mark.parametrize(
    ("evaluation", "field", "found", "said"),
    [
        ({"metric": "own_metrics:raises"}, "evaluation.metrics", "ZeroDivisionError", "correct the function"),
        ({"metrics": ["own_metrics:nan"]}, "evaluation.metrics", "no finite number", "finite number"),
        ({"metrics": ["own_metrics:short"]}, "evaluation.metrics", "shape (1,) for 12 rows", "one for each row"),
        ({"metrics": ["own_metrics:text"]}, "evaluation.metrics", '"good"', "finite number"),
        ({"metric": "own_metrics:unnamed"}, "evaluation.metrics", "'a', 'b'", "unnamed.names = ('a', 'b')"),
        ({"metric": "own_metrics:lonely"}, "evaluation.metric", "own_metrics:lonely", "(predictions, references)"),
        ({"metric": "own_metrics:away"}, "evaluation.metric", "own_metrics:away", "no away in own_metrics"),
        ({"metric": "recall.postive"}, "evaluation.metric", "recall.postive", "recall.positive"),
        ({"metric": "macro_f"}, "evaluation.metric", "macro_f", "macro_f1"),
        ({"metric": "rouge1"}, "evaluation.metric", "rouge1", "choose one of them"),
    ],
)  # fmt: skip
def test_what_is_no_score_is_refused_before_training(spec, tmp_path, evaluation, field, found, said):
    with pytest.raises(UserError) as refused:
        prepare(recipe.from_dict(spec(**evaluation), tmp_path))
    (problem,) = refused.value.problems
    assert problem.field == field
    assert found in problem.found and said in problem.fix


def macro(predictions: list[str], references: list[str]) -> float:
    return float(f1_score(references, predictions, average="macro", zero_division=0))


def test_a_score_of_a_whole_is_drawn_as_the_sums_are(monkeypatch):
    """Macro-F1 by scikit-learn, computed anew for each draw, and by sums: the same scores and the same draws."""
    monkeypatch.setattr(_whole, "SECONDS", 1e9)
    drawn = np.random.default_rng(0)
    golds = drawn.choice(["a", "b", "c"], 47).tolist()
    values = [g if drawn.random() < 0.7 else "a" for g in golds]
    scoring = Scoring("label", (Classification,), Classification.names, Settings(["a", "b", "c"]))
    scoring.metrics = [*scoring.metrics, of_function("mine:macro", macro)(scoring.settings)]
    table = scoring.statistics(values, golds)
    for sums in (table.sum(0), table[5:20].sum(0), bootstrap.bootstrap(table, 40),
                 bootstrap.bootstrap(table, 40, clusters=np.arange(47) // 3)):  # fmt: skip
        found = scoring.scores(sums)
        np.testing.assert_allclose(found["macro"], found["macro_f1"], rtol=1e-12)
    other = scoring.statistics(golds, golds)  # another table of the same metric
    a, b = np.split(bootstrap.bootstrap(np.concatenate([table, other], axis=1), 20), [table.shape[1]], axis=1)
    np.testing.assert_allclose(scoring.scores(a)["macro"], scoring.scores(a)["macro_f1"])
    np.testing.assert_allclose(scoring.scores(b)["macro"], 1.0)


def test_recall_of_a_label_is_that_of_its_draws():
    golds, values = ["a", "b", "a", "b", "b"], ["a", "a", "b", "b", "b"]
    scoring = Scoring("label", (Classification,), Classification.names, Settings(["a", "b"], metric="recall.b"))
    assert scoring.names[0] == "recall.b"
    table = scoring.statistics(values, golds)
    assert scoring.scores(table.sum(0))["recall.b"] == pytest.approx(2 / 3)
    assert scoring.scores(table)["recall.b"].tolist() == [0, 0, 0, 1, 1]
    assert list(scoring.scores(bootstrap.bootstrap(table, 7))["recall.b"].shape) == [7]


def test_calibration_error_of_draws_is_the_reports():
    drawn = np.random.default_rng(1)
    golds = drawn.choice(["a", "b"], 60).tolist()
    values = [{"a": p, "b": 1 - p} for p in drawn.random(60)]
    metric = ExpectedCalibrationError(Settings(["a", "b"]))
    table = metric.statistics(values, golds)
    counts = drawn.multinomial(60, np.full(60, 1 / 60))
    again = [i for i, n in enumerate(counts) for _ in range(n)]
    expected = expected_error(*predictions_of([values[i] for i in again], [golds[i] for i in again]))
    assert float(metric.scores(counts.astype(float) @ table)["ece"]) == pytest.approx(expected, abs=1e-12)


def test_more_rows_than_a_whole_takes_are_refused_and_lists_are_not():
    whole, by_row = of_function("mine:macro", macro)(), of_function("mine:right", lambda p, r: [1.0] * len(r))()
    golds = ["a"] * (LIMIT + 1)
    with pytest.raises(UserError, match=f"{LIMIT + 1} rows"):
        whole.statistics(golds, golds)
    table = by_row.statistics(golds, golds)
    assert table.shape == (LIMIT + 1, 2)
    assert float(by_row.scores(table.sum(0))["right"]) == 1.0
    with forgotten():
        kept = whole.statistics(golds[:3], golds[:3])
        assert float(whole.scores(kept.sum(0))["macro"]) == 1.0
    with pytest.raises(KeyError):
        whole.scores(kept.sum(0))


def test_draws_that_take_too_long_are_left_out_of_the_interval(monkeypatch):
    monkeypatch.setattr(_whole, "SECONDS", 0.0)
    metric = of_function("mine:macro", macro)(Settings(["a", "b"]))
    table = metric.statistics(["a", "b"] * 20, ["a", "b"] * 20)
    draws = metric.scores(bootstrap.bootstrap(table, _whole.LEAST + 10))["macro"]
    assert np.isnan(draws).sum() == 10 and np.isnan(draws[-10:]).all()
    assert bootstrap.interval(draws) == (1.0, 1.0)
