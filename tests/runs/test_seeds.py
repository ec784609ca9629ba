"""Several seeds of one recipe: what is pooled, how sure it is, what replaces a seed that failed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import keeltune as kt
from keeltune import recipe
from keeltune.evaluation import overfitting, scores, seed_bootstrap
from keeltune.reports import run_page
from keeltune.runs import comparison, history, opened_model, pooling, run, run_folder, seeds
from keeltune.utils.errors import StateRefused, UserError
from keeltune.utils.json_lines import read_lines
from keeltune.utils.progress import Display
from tests.helpers.pages import check_page
from tests.helpers.runs import lines, make_data, reviews, spec_of, write_rows

QUIET = Display(quiet=True)


@pytest.fixture
def data(tmp_path):
    make_data(tmp_path)
    write_rows(tmp_path / "old.jsonl", reviews(60, seed=5))
    return tmp_path


def pooled(tiny, folder, numbers=(0, 1), epochs=2, **changes) -> run_folder.Run:
    values = spec_of("fine-tuning", tiny("bert"), **changes)
    values["training"] = {**values["training"], "epochs": epochs, "seed": list(numbers)}
    return run.train(recipe.from_dict(values, folder), display=QUIET)


@pytest.fixture(scope="module")
def trained_pool(tiny, tmp_path_factory) -> Path:
    """Four epochs, after which its seeds answer differently, and the second one is the best."""
    return pooled(tiny, make_data(tmp_path_factory.mktemp("pool")), epochs=4).folder


@pytest.fixture(scope="module")
def trained_once(tiny, tmp_path_factory) -> Path:
    folder = make_data(tmp_path_factory.mktemp("once"))
    return run.train(recipe.from_dict(spec_of("fine-tuning", tiny("bert")), folder), display=QUIET).folder


@pytest.fixture
def pool(trained_pool, data) -> run_folder.Run:
    """A copy of the pool of seeds 0 and 1, beside its rows."""
    return run_folder.finished(shutil.copytree(trained_pool, data / "out"))


@pytest.fixture
def once(trained_once, data) -> run_folder.Run:
    """A copy of a run of one seed, beside its rows."""
    return run_folder.finished(shutil.copytree(trained_once, data / "out"))


def test_a_pool_is_the_mean_of_its_seeds(data, pool):
    done = pool
    each = [run_folder.finished(data / "out" / f"seed-{n}") for n in (0, 1)]
    accuracies = [one.result["metrics"]["test"]["accuracy"] for one in each]
    assert len(set(accuracies)) == 2  # or any of them would be the mean
    assert done.result["metrics"]["test"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert done.result["seeds"]["values"]["test"]["accuracy"] == accuracies
    assert done.result["seeds"]["sd"]["test"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert done.result["training"]["seed"] == [0, 1]
    assert done.result["training"]["steps"] == sum(one.result["training"]["steps"] for one in each)
    low, high = done.result["intervals"]["test"]["accuracy"]
    assert low <= np.mean(accuracies) <= high
    by_label = [one.result["metrics"]["test"]["by_label"]["positive"]["f1"] for one in each]
    assert done.result["metrics"]["test"]["by_label"]["positive"]["f1"] == pytest.approx(np.mean(by_label))
    check_page((done.folder / "report.html").read_text("utf-8"))
    alone = run.train(recipe.load(data / "out" / "seed-1" / "recipe.yaml", [f"output={data / 'alone'}"]), display=QUIET)
    assert lines(alone.folder / "predictions" / "test.jsonl") == lines(each[1].folder / "predictions" / "test.jsonl")


def test_a_pool_without_scores_and_without_bars_shows_each_seeds_loss(tiny, data):
    """With more labels than are charted and no other rows, nothing else on the page is a picture."""
    write_rows(data / "many.jsonl", [{**row, "label": f"label {i}"} for i, row in enumerate(reviews(30, seed=3))])
    values = spec_of("fine-tuning", tiny("bert"), data={"train": "many.jsonl"})
    values["training"] = {**values["training"], "epochs": 2, "seed": [0, 1], "logging_steps": 1}
    done = run.train(recipe.from_dict(values, data), display=QUIET)
    page = check_page((done.folder / "report.html").read_text("utf-8"))
    drawn = [attributes["points"] for tag, attributes in page.tags if tag == "polyline"]
    steps = [sum("cross_entropy" in entry for entry in lines(done.folder / f"seed-{n}" / "log.jsonl")) for n in (0, 1)]
    assert [len(points.split()) for points in drawn] == steps
    assert drawn[0] != drawn[1]
    assert {"seed 0", "seed 1"} <= set(page.words)
    for n in (0, 1):
        (done.folder / f"seed-{n}" / "log.jsonl").unlink()
    assert "nothing was logged" in check_page(run_page.page(done.folder, done.result)).text


def test_a_pools_page_has_the_seeds_validation_curves(pool):
    names = [
        a.get("aria-label") for tag, a in check_page((pool.folder / "report.html").read_text()).tags if tag == "svg"
    ]
    assert {"validation, nats a prediction: seed 0, seed 1", "validation, accuracy: seed 0, seed 1"} <= set(names)


def test_a_pools_name_stands_for_its_best_seed(data, pool):
    done = pool
    best = data / "out" / done.result["seeds"]["best"]
    validation = [
        run_folder.finished(data / "out" / f).result["metrics"]["validation"] for f in done.result["seeds"]["folders"]
    ]
    assert best.name == "seed-1"
    assert done.model == best / "model"
    assert (
        max(v["accuracy"] for v in validation) == run_folder.finished(best).result["metrics"]["validation"]["accuracy"]
    )
    asked = kt.predict(done.folder, data / "test.jsonl")
    assert [row["prediction"] for row in asked] == [p["prediction"] for p in lines(best / "predictions" / "test.jsonl")]
    again = spec_of("cross-domain", done.folder, output="held", objective={"weight": 0.3})
    assert run.train(recipe.from_dict(again, data), display=QUIET).result["status"] == "completed"


def test_seeds_go_on_where_they_were_stopped(tiny, data, pool):
    whole = pool
    shutil.rmtree(data / "out" / "seed-1")
    (data / "out" / "result.json").unlink()
    before = (data / "out" / "seed-0" / "result.json").stat().st_mtime_ns
    made = spec_of("fine-tuning", tiny("bert"))
    made["training"] = {**made["training"], "epochs": 4, "seed": [0, 1]}
    values = recipe.from_dict(made, data)
    with pytest.raises(UserError, match="in use"):
        run.train(values, display=QUIET)
    again = run.train(values, resume=True, display=QUIET)
    assert (data / "out" / "seed-0" / "result.json").stat().st_mtime_ns == before
    assert again.result["metrics"] == whole.result["metrics"]
    assert again.result["intervals"] == whole.result["intervals"]
    made["training"] = {**made["training"], "learning_rate": 1e-5}
    with pytest.raises(StateRefused, match="learning_rate"):
        run.train(recipe.from_dict(made, data), resume=True, display=QUIET)
    assert run_folder.finished(data / "out").result["metrics"] == whole.result["metrics"]  # a refusal costs nothing
    (data / "out" / "seed-words.txt").write_text("mine")
    anew = run.train(values, overwrite=True, display=QUIET)
    assert (data / "out" / "seed-0" / "result.json").stat().st_mtime_ns > before
    assert anew.result["metrics"] == whole.result["metrics"]
    assert (data / "out" / "seed-words.txt").is_file()


def test_a_seed_that_learnt_nothing_is_replaced(tiny, data, monkeypatch):
    def stuck(result):
        return "nothing was learnt" if result["training"]["seed"] == 1 else None

    monkeypatch.setattr(overfitting, "stuck", stuck)
    done = pooled(tiny, data, (0, 1))
    assert done.result["seeds"]["numbers"] == [0, 1 + seeds.ANOTHER]
    assert done.result["seeds"]["failed"] == [{"seed": 1, "reason": "nothing was learnt"}]
    assert run_folder.finished(data / "out" / "seed-1-failed").result["training"]["seed"] == 1


def test_seeds_a_thousand_apart_are_replaced_by_different_ones(tiny, data, monkeypatch):
    monkeypatch.setattr(
        overfitting, "stuck", lambda result: "stuck" if result["training"]["seed"] in (0, 1000) else None
    )
    assert pooled(tiny, data, (0, 1000)).result["seeds"]["numbers"] == [2000, 4000]


def test_one_seed_in_a_list_is_a_plain_run(tiny, data):
    done = pooled(tiny, data, (3,))
    assert done.result["seeds"] is None
    assert done.result["training"]["seed"] == 3
    assert done.model == data / "out" / "model"


def test_the_draws_over_seeds_have_the_variance_of_a_mean():
    """With scores of no row noise, the draws' variance is the unbiased one of the mean, sd² / S."""
    values = np.array([0.7, 0.74, 0.81, 0.78])
    drawn = seed_bootstrap.over_seeds([np.full(200_000, v) for v in values])
    assert drawn.mean() == pytest.approx(values.mean(), abs=1e-3)
    assert drawn.var() == pytest.approx(values.var(ddof=1) / 4, rel=0.02)
    assert (seed_bootstrap.over_seeds([np.arange(5.0)]) == np.arange(5.0)).all()


def test_pools_are_compared_by_their_rows(tiny, data, pool):
    one = pool
    values = spec_of("fine-tuning", tiny("bert"), output="other")
    values["training"] = {**values["training"], "epochs": 1, "seed": [0, 1]}
    other = run.train(recipe.from_dict(values, data), display=QUIET)
    found = comparison.compare([one.folder, other.folder])
    for line, done in zip(found["runs"], (one, other), strict=True):
        assert line["target"]["value"] == pytest.approx(done.result["metrics"]["test"]["accuracy"])


def test_changes_of_two_domains_are_pooled(tiny, data):
    values = spec_of("cross-domain", tiny("bert"), objective={"weight": 0.2})
    values["data"]["source"] = {"test": "old.jsonl"}
    values["training"] = {**values["training"], "seed": [0, 1]}
    done = run.train(recipe.from_dict(values, data), display=QUIET)
    each = [run_folder.finished(data / "out" / f"seed-{n}").result["forgetting"]["source"]["metrics"] for n in (0, 1)]
    found = done.result["forgetting"]["source"]["metrics"]["accuracy"]
    assert found["change"] == pytest.approx(np.mean([one["accuracy"]["change"] for one in each]))
    assert found["interval"][0] <= found["change"] <= found["interval"][1]
    check_page((done.folder / "report.html").read_text("utf-8"))


# Prediction files hold all that the metrics are made of


def test_tables_are_made_again_of_prediction_files(once):
    done = once
    task = opened_model.open_model(done.folder, None).task
    table = scores.table_of(task, read_lines(done.folder / "predictions" / "test.jsonl"))
    found = scores.scores_of(task, table)
    result = done.result
    assert found.metrics == pytest.approx({k: v for k, v in result["metrics"]["test"].items() if k != "by_label"})
    for name, pair in result["intervals"]["test"].items():
        assert found.intervals[name] == pytest.approx(tuple(pair))


# The history


def test_runs_are_listed_with_what_they_were_made_of(tiny, data, trained_pool, capsys):
    from keeltune.cli import runs as listing

    for output in ("runs/a", "runs/b"):
        values = {**spec_of("fine-tuning", tiny("bert")), "output": output}
        run.train(recipe.from_dict(values, data), display=QUIET)
    shutil.copytree(trained_pool, data / "runs" / "deep" / "c")
    found = {one["folder"].rsplit("/", 1)[1]: one for one in history.runs(data / "runs")}
    assert set(found) == {"a", "b", "c"}
    assert found["a"]["identity"] == found["b"]["identity"] != found["c"]["identity"]
    assert found["c"]["seeds"] == [0, 1]
    listing.runs(data / "runs", as_json=True)
    assert len(json.loads(capsys.readouterr().out)) == 3


def test_every_look_at_the_test_rows_is_counted(tiny, data, once, capsys):
    done = once
    for file in ("validation", "test", "test"):
        kt.evaluate(done.folder, data / f"{file}.jsonl")
    assert "these rows were scored 3 times" in capsys.readouterr().err
    kt.evaluate(done.model, data / "test.jsonl", task="sentiment-analysis")
    assert [look["by"] for look in read_lines(done.folder / "looks.jsonl")] == ["train", *["evaluate"] * 3]
    assert [one["looks"] for one in history.runs(data)] == [3]  # at the test rows, not at those of validation
    with (done.folder / "looks.jsonl").open("a") as cut:
        cut.write('{"when": "20')  # a disk that was full
    kt.evaluate(done.folder, data / "test.jsonl")
    assert "these rows were scored 4 times" in capsys.readouterr().err
    values = spec_of("fine-tuning", tiny("bert"))  # who trains anew after a look has looked
    run.train(recipe.from_dict(values, data), overwrite=True, display=QUIET)
    assert [one["looks"] for one in history.runs(data)] == [5]


@pytest.mark.parametrize("broken", ['{"metr', "[]"])
def test_a_damaged_run_does_not_hide_the_others(data, trained_once, broken):
    shutil.copytree(trained_once, data / "runs" / "a")
    (data / "runs" / "b").mkdir()
    (data / "runs" / "b" / "recipe.yaml").write_text("task: none")
    (data / "runs" / "b" / "result.json").write_text(broken)
    found = {one["folder"].rsplit("/", 1)[1]: one["status"] for one in history.runs(data / "runs")}
    assert found == {"a": "completed", "b": "unreadable"}
    with pytest.raises(UserError, match="no such folder"):
        history.runs(data / "nowhere")


def test_a_pools_interval_stays_within_what_a_metric_can_be():
    drawn = [np.full(500, value) for value in (0.0, 0.0, 1.0)]  # the root carries draws beyond both ends
    assert min(seed_bootstrap.over_seeds(drawn)) < 0 < 1 < max(seed_bootstrap.over_seeds(drawn))
    within = pooling._within("accuracy", drawn)
    assert (min(within), max(within)) == (0.0, 1.0)
    assert min(pooling._within("mcc", [d - 0.5 for d in drawn])) < 0


def test_calibrated_predictions_are_asked_for(tiny, data):
    values = spec_of("fine-tuning", tiny("bert"))
    values["training"]["epochs"] = 2
    done = run.train(recipe.from_dict(values, data), display=QUIET)
    plain = kt.predict(done.folder, data / "test.jsonl")
    temperature = done.result["calibration"]["validation"]["temperature"]
    if temperature is None:
        with pytest.raises(UserError, match="no fitted temperature"):
            kt.predict(done.folder, data / "test.jsonl", calibrated=True)
        return
    mended = kt.predict(done.folder, data / "test.jsonl", calibrated=True)
    for a, b in zip(plain, mended, strict=True):
        assert a["prediction"] == b["prediction"]
        p, q = a["probabilities"]["positive"], b["probabilities"]["positive"]
        assert np.log(q / (1 - q)) == pytest.approx(np.log(p / (1 - p)) / temperature, rel=1e-5)
    with pytest.raises(UserError, match="no fitted temperature"):
        kt.predict(done.model, data / "test.jsonl", task="sentiment-analysis", calibrated=True)
