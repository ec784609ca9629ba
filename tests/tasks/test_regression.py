"""Numbers: Gaussian cross-entropy and divergence in closed form, metrics against scipy and scikit-learn, whole runs."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch.distributions import Normal, kl_divergence

import keeltune as kt
from keeltune import recipe
from keeltune.data.dataset import Row
from keeltune.objective.formula import Counts, Objective
from keeltune.objective.gaussian import CONSTANT, Gaussian
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.metrics.correlation import Correlation
from keeltune.tasks.metrics.numeric_error import NumericError
from keeltune.tasks.metrics.rank_correlation import RankCorrelation
from keeltune.tasks.regression import Regression
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers.models import WORDS, save_numbers, save_tiny, word_tokenizer
from tests.helpers.runs import encoder, lines, write_rows

QUIET = Display(quiet=True)
UNIT = SimpleNamespace(target_mean=[10.0, -2.0], target_std=[4.0, 0.5], is_encoder_decoder=False)


def task_of(names: list[str], config: Any = UNIT) -> Regression:
    return Regression(word_tokenizer(), Settings(names, config=config))


def rows_of(*targets: Any) -> list[Row]:
    return [Row({"text": "the film is good", "target": t}, "f", i + 1, f"k{i}") for i, t in enumerate(targets)]


# The formula


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_loss_and_its_gradient_are_those_of_gaussian_nll():
    task = task_of(["a", "b"])
    targets = [[12.0, -2.5], [2.0, -1.0], [-100.0, -100.0]]  # -100 is a number like any other
    batch = task.collate([e for row in rows_of(*targets) for e in task.encode(row)])
    logits = numbers(3, 2, seed=1).requires_grad_()
    z = (torch.tensor(targets).double() - torch.tensor(UNIT.target_mean)) / torch.tensor(UNIT.target_std)
    wanted = torch.nn.functional.gaussian_nll_loss(logits, z, torch.ones_like(z), full=True, reduction="sum") / 6
    terms = Objective()(task.sliced_cross_entropy(batch), task.rows(SimpleNamespace(logits=logits), batch),
                        counts=Counts(*task.counts(batch)))  # fmt: skip
    assert task.counts(batch)[0] == len(batch["targets"]) == 6
    assert terms.loss.item() == pytest.approx(wanted.item(), rel=1e-7)
    ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (terms.loss, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    whole = task.cross_entropy(task.rows(SimpleNamespace(logits=logits), batch), batch).item()
    assert whole == pytest.approx(6 * terms.loss.item(), rel=1e-12)
    assert whole == pytest.approx(0.5 * ((logits - z) ** 2).sum().item() + 3 * math.log(2 * math.pi), rel=1e-7)


@pytest.mark.parametrize("name", ["reverse-kl", "forward-kl"])
def test_the_divergence_is_that_of_two_normal_distributions(name):
    p, q = numbers(7, seed=1).requires_grad_(), numbers(7, seed=2)
    wanted = kl_divergence(Normal(p, 1.0), Normal(q, 1.0)).sum()
    found = Objective(name).total(Gaussian(p), Gaussian(q))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    for ours, theirs in zip(torch.autograd.grad(found, p), torch.autograd.grad(wanted, p), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert Objective(name).total(Gaussian(p), Gaussian(p)).item() == 0.0
    chosen = torch.tensor([True, False, True, True, False, False, True])
    some = Objective(name, size=2).total(Gaussian(p), Gaussian(q), chosen)
    assert some.item() == pytest.approx((0.5 * (p - q) ** 2)[chosen].sum().item(), rel=1e-12)


def test_the_loss_is_least_between_label_and_reference():
    task = task_of(["a"], None)
    batch = task.collate([e for row in rows_of(1.0) for e in task.encode(row)])
    mean = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
    objective = Objective(weight=0.25)
    terms = objective(task.sliced_cross_entropy(batch), Gaussian(mean), Gaussian(torch.tensor([5.0]).double()),
                      counts=Counts(1, 1))  # fmt: skip
    assert terms.loss.item() == pytest.approx(0.5 + CONSTANT + 0.25 * 12.5)
    (gradient,) = torch.autograd.grad(terms.loss, mean)
    assert (mean - gradient / 1.25).item() == pytest.approx((1.0 + 0.25 * 5.0) / 1.25)  # a quadratic: Newton's step


def test_bf16_numbers_are_compared_in_float32():
    p = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    assert Objective().total(Gaussian(p), Gaussian(p + 0.01)).dtype == torch.float32


def test_divergences_without_a_closed_form_are_refused():
    with pytest.raises(ValueError, match="no closed form"):
        Objective("jensen-shannon").total(Gaussian(numbers(2, seed=1)), Gaussian(numbers(2, seed=2)))
    with pytest.raises(ValueError, match="temperature 2"):
        Objective("reverse-kl", temperature=2.0).total(Gaussian(numbers(2, seed=1)), Gaussian(numbers(2, seed=2)))


def test_an_ensemble_is_the_mean_of_its_members():
    mean = Gaussian(torch.zeros(2)).averaged([Gaussian(torch.tensor([1.0, 2.0])), Gaussian(torch.tensor([3.0, 6.0]))],
                                             [0.25, 0.75])  # fmt: skip
    assert mean.log_probs(slice(None))[:, 0].tolist() == [2.5, 5.0]


# Metrics


@pytest.mark.parametrize("config", [None, SimpleNamespace(target_mean=[1e7], target_std=[2.0])])
def test_scores_are_those_of_scipy_and_scikit_learn(config):
    rng = np.random.default_rng(3)
    golds = np.round(1e7 * (config is not None) + 2 * rng.normal(size=60), 1)  # with ties
    values = np.round(golds + rng.normal(size=60), 1)
    settings = Settings(["target"], config=config)
    found: dict[str, float] = {}
    for metric in (Correlation(settings), RankCorrelation(settings), NumericError(settings)):
        scores = metric.scores(metric.statistics(values.tolist(), golds.tolist()).sum(0))
        found |= {name: float(value) for name, value in scores.items()}
    assert found["pearson"] == pytest.approx(pearsonr(values, golds).statistic, abs=1e-9)
    assert found["spearman"] == pytest.approx(spearmanr(values, golds).statistic, abs=1e-12)
    assert found["r2"] == pytest.approx(r2_score(golds, values), abs=1e-9)
    assert found["mae"] == pytest.approx(mean_absolute_error(golds, values), rel=1e-9)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(golds, values), rel=1e-9)


def test_several_numbers_are_scored_by_their_mean():
    rng = np.random.default_rng(4)
    golds = rng.normal(size=(50, 2)) * [4.0, 0.5] + [10.0, -2.0]
    values = golds + rng.normal(size=(50, 2))
    settings = Settings(["a", "b"], config=UNIT)
    found: dict[str, float] = {}
    for metric in (Correlation(settings), RankCorrelation(settings), NumericError(settings)):
        scores = metric.scores(metric.statistics(values.tolist(), golds.tolist()).sum(0))
        found |= {name: float(value) for name, value in scores.items()}
    assert found["r2"] == pytest.approx(r2_score(golds, values), abs=1e-9)
    assert found["mae"] == pytest.approx(mean_absolute_error(golds, values), rel=1e-9)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(golds, values), rel=1e-9)
    assert found["pearson"] == pytest.approx(np.mean([pearsonr(values[:, i], golds[:, i])[0] for i in (0, 1)]))
    assert found["spearman"] == pytest.approx(np.mean([spearmanr(values[:, i], golds[:, i])[0] for i in (0, 1)]))


def test_answers_that_never_change_have_no_correlation():
    settings = Settings(["target"])
    for metric in (Correlation(settings), RankCorrelation(settings)):
        scores = metric.scores(metric.statistics([3.1] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]).sum(0))
        assert float(scores[metric.names[0]]) == 0.0
    constant = Correlation(settings)
    assert float(constant.scores(constant.statistics([2.0, 2.0], [2.0, 2.0]).sum(0))["r2"]) == 1.0


# The unit


def test_a_reference_is_read_in_the_students_unit():
    task = task_of(["a", "b"])
    theirs = SimpleNamespace(target_mean=[8.0, 0.0], target_std=[2.0, 1.0])
    batch = task.collate([e for row in rows_of([1.0, 1.0]) for e in task.encode(row)])
    said = task.converted(task.rows, theirs)(SimpleNamespace(logits=torch.tensor([[1.0, -3.0]])), batch)
    assert said.log_probs(slice(None))[:, 0].tolist() == [0.0, -2.0]  # 10 and -3, in our unit
    (answer,) = task.decode(said, batch)
    assert answer.value == [10.0, -3.0]


# Whole runs


def rated(count: int, seed: int, scale: float = 1.0) -> list[dict[str, Any]]:
    """The more good words and the fewer bad ones, the larger the number."""
    drawn = random.Random(seed)
    rows = []
    for _ in range(count):
        words = [drawn.choice([*WORDS, "good", "good", "bad", "bad"]) for _ in range(5)]
        number = 200 + 40 * scale * (words.count("good") - words.count("bad"))
        rows.append({"text": " ".join(words), "target": number})
    return rows


def spec_of(folder: Path, method: str = "fine-tuning", **changes: Any) -> dict[str, Any]:
    return {
        "task": "regression",
        "method": method,
        "model": "model",
        "data": {"train": "train.jsonl", "test": "test.jsonl"},
        "training": {"epochs": 10, "batch_size": 16, "learning_rate": 1e-2, "precision": "fp32"},
        "output": "out",
    } | changes


@pytest.fixture(scope="module")
def trained(tmp_path_factory, request) -> tuple[Path, kt.Run]:
    folder = tmp_path_factory.mktemp("numbers")
    write_rows(folder / "train.jsonl", rated(96, 1))
    write_rows(folder / "test.jsonl", rated(40, 2))
    encoder(folder / "model", lambda name: save_tiny(folder / "tiny"))
    return folder, kt.train(recipe.from_dict(spec_of(folder), folder), display=QUIET)


def test_a_run_learns_and_says_numbers_in_the_unit_of_the_rows(trained):
    folder, run = trained
    scores = run.result["metrics"]["test"]
    assert scores["r2"] > 0.5 and scores["pearson"] > 0.7 and scores["mae"] < 40
    assert list(scores)[:5] == ["r2", "pearson", "spearman", "mae", "rmse"]
    for name in ("r2", "pearson", "spearman", "mae", "rmse"):
        low, high = run.result["intervals"]["test"][name]
        assert low <= scores[name] <= high
    stored = lines(run.folder / "predictions" / "test.jsonl")
    answers = [line["prediction"] for line in stored]
    golds = [line["gold"] for line in stored]
    assert scores["r2"] == pytest.approx(r2_score(golds, answers), abs=1e-6)
    assert scores["spearman"] == pytest.approx(spearmanr(golds, answers).statistic, abs=1e-6)
    z = [(g - a) for g, a in zip(golds, answers, strict=True)]
    config = json.loads((run.model / "config.json").read_text(encoding="utf-8"))
    (mean,), (deviation,) = config["target_mean"], config["target_std"]
    assert config["problem_type"] == "regression" and config["id2label"] == {"0": "target"}
    targets = [row["target"] for row in rated(96, 1)]
    assert (mean, deviation) == pytest.approx((np.mean(targets), np.std(targets)))
    assert scores["loss"] == pytest.approx(np.mean([0.5 * (d / deviation) ** 2 + CONSTANT for d in z]), rel=1e-5)
    again = kt.evaluate(run.folder, folder / "test.jsonl", display=QUIET)
    assert again["metrics"]["rmse"] == pytest.approx(scores["rmse"], rel=1e-6)
    assert isinstance(kt.load(run.folder)("the film was good")["prediction"], float)


def test_stock_transformers_loads_it_and_the_card_says_how(trained):
    _, run = trained
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.model)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(run.model).eval()
    texts = [row["text"] for row in rated(40, 2)][:5]
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    mean, std = (torch.tensor(part) for part in (model.config.target_mean, model.config.target_std))
    stored = [line["prediction"] for line in lines(run.folder / "predictions" / "test.jsonl")][:5]
    assert [float(z * std + mean) for z in logits] == pytest.approx(stored, rel=1e-5)
    assert "z * std + mean" in (run.model / "README.md").read_text(encoding="utf-8")


def test_the_old_self_holds_it_in_its_own_unit(trained):
    folder, run = trained
    write_rows(folder / "new.jsonl", rated(48, 5, scale=0.5))
    given = spec_of(folder, "cross-domain", model=str(run.model), output="old", objective={"weight": 0.5})
    given["data"] = {"train": "new.jsonl", "test": "new.jsonl", "source": {"test": "test.jsonl"}}
    given["training"]["epochs"] = 2
    held = kt.train(recipe.from_dict(given, folder), display=QUIET)
    before, after = (json.loads((r.model / "config.json").read_text(encoding="utf-8")) for r in (run, held))
    assert before["target_mean"] == after["target_mean"] and before["target_std"] == after["target_std"]
    assert held.result["objective"]["divergence"] > 0
    assert held.result["metrics"]["source"]["before"]["r2"] == pytest.approx(run.result["metrics"]["test"]["r2"])


def test_a_teacher_of_another_unit_is_the_same_live_and_cached(trained):
    folder, run = trained
    write_rows(folder / "wide.jsonl", [{**row, "target": 3 * row["target"] - 7} for row in rated(48, 6)])
    save_tiny(folder / "small", seed=4)
    results = []
    for origin in ("online", "cached"):
        given = spec_of(folder, "distillation", model="small", output=f"taught-{origin}")
        given |= {"reference": {"model": str(run.model), "from": origin}}
        given["data"] = {"train": "wide.jsonl", "test": "wide.jsonl", "unlabeled": "train.jsonl"}
        given["training"] = {**given["training"], "epochs": 1}
        results.append(kt.train(recipe.from_dict(given, folder), display=QUIET).result)
    assert [r["reference"]["kind"] for r in results] == ["model", "cached"]
    assert results[0]["objective"] == results[1]["objective"]
    assert results[0]["metrics"] == results[1]["metrics"]
    # the first divergence is of a student near 0: that of the teacher's numbers in the wide rows' unit
    assert results[0]["objective"]["divergence"] > 1


def test_several_numbers_of_a_pair_of_texts(tmp_path):
    rows = [{"text": row["text"], "text_pair": "the plot", "target": [row["target"], -row["target"] / 7]}
            for row in rated(40, 3)]  # fmt: skip
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(tmp_path / "test.jsonl", rows[:20])
    save_tiny(tmp_path / "model")
    given = spec_of(tmp_path)
    given["data"]["labels"] = ["joy", "calm"]
    given["training"]["epochs"] = 1
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    config = json.loads((run.model / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "joy", "1": "calm"} and len(config["target_mean"]) == 2
    (answer,) = kt.predict(run.folder, [rows[0]], display=QUIET)
    assert len(answer["prediction"]) == 2 and answer["prediction"][1] < 0 < answer["prediction"][0]


def test_a_head_that_was_trained_elsewhere_says_numbers_as_they_are(tmp_path):
    save_tiny(tmp_path / "model", labels=("LABEL_0",))
    write_rows(tmp_path / "train.jsonl", rated(16, 1))
    write_rows(tmp_path / "test.jsonl", rated(8, 1))
    given = spec_of(tmp_path, training={"max_steps": 1, "batch_size": 8, "learning_rate": 1e-9, "precision": "fp32"})
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    config = json.loads((run.model / "config.json").read_text(encoding="utf-8"))
    assert (config["target_mean"], config["target_std"]) == ([0.0], [1.0])


@pytest.mark.parametrize(
    ("rows", "said"),
    [([{"text": "a", "target": "much"}], "with a point and without a unit"),
     ([{"text": "a", "target": None}], "move the row to data.unlabeled"),
     ([{"text": "a", "target": True}], "write it as in 3.5"),
     ([{"text": "a", "target": []}], "give the row one"),
     ([{"text": "a", "target": 1.0}, {"text": "b", "target": 2.0}, {"text": "c", "target": [1.0, 2.0]}], "2 numbers"),
     ([{"text": "a", "target": 3.0}, {"text": "b", "target": 3.0}], "in every row")],
)  # fmt: skip
def test_what_is_no_number_is_refused(rows, said, tmp_path):
    write_rows(tmp_path / "train.jsonl", rows)
    save_tiny(tmp_path / "model")
    given = spec_of(tmp_path)
    given["data"] = {"train": "train.jsonl"}
    with pytest.raises(UserError, match=said):
        kt.train(recipe.from_dict(given, tmp_path), display=QUIET)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"objective": {"temperature": 2.0}}, "objective.temperature"),
     ({"objective": {"divergence": "jensen-shannon"}}, "objective.divergence"),
     ({"reference": {"model": "teacher", "temperature": 2.0}}, "reference.temperature"),
     ({"training": {"max_steps": 1, "regularizers": {"r_drop": 1.0}}}, "training.regularizers.r_drop")],
)  # fmt: skip
def test_what_has_no_meaning_for_numbers_is_refused(changes, field, tmp_path):
    write_rows(tmp_path / "train.jsonl", rated(12, 1))
    save_numbers(tmp_path / "model")
    save_numbers(tmp_path / "teacher", seed=1)
    given = {**spec_of(tmp_path, "distillation", reference="teacher"), **changes}
    given["data"] = {"train": "train.jsonl"}
    with pytest.raises(UserError) as caught:
        kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert [problem.field for problem in caught.value.problems] == [field]


def test_numbers_in_a_table_and_in_memory(tmp_path):
    save_numbers(tmp_path / "model")
    (tmp_path / "rows.csv").write_text('text,target\ngood film,4.5\n"bad, film",-1e1\n', encoding="utf-8")
    scores = kt.evaluate(tmp_path / "model", tmp_path / "rows.csv", task="regression", display=QUIET)
    assert scores["rows"] == 2 and scores["metrics"]["mae"] > 0
    assert kt.predict(tmp_path / "model", [{"text": "fine"}], task="sts", display=QUIET)[0]["prediction"] is not None
