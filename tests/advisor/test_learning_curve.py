"""The learning curve: a fit with a known answer, nested shares, and what a command leaves behind."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from keeltune import recipe
from keeltune.advisor import learning_curve
from keeltune.data import dataset
from keeltune.reports import learning_curve_page
from keeltune.runs import opened_model, run, run_folder
from keeltune.training.preparation import prepare
from keeltune.utils.errors import StateRefused, UserError
from keeltune.utils.progress import Display
from tests.helpers.pages import check_chinese, check_page
from tests.helpers.runs import lines, make_data, reviews, spec_of, write_rows

QUIET = Display(quiet=True)


def test_a_power_law_is_found_again():
    rows = np.array([100.0, 200.0, 400.0, 800.0])
    found = learning_curve.fit(rows, 0.05 + 3.0 * rows**-0.5)
    assert found.at(1600) == pytest.approx(0.05 + 3.0 * 1600**-0.5, abs=1e-3)
    assert found.scatter < 1e-3
    flat = learning_curve.fit(rows, np.full(4, 0.2))
    assert flat.at(1600) == pytest.approx(0.2, abs=1e-9)
    rising = learning_curve.fit(
        rows, np.array([0.1, 0.2, 0.3, 0.4])
    )  # no curve of this kind rises: the mean is the best
    assert rising.at(1600) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    ("gain", "low", "high", "said"),
    [(0.03, 0.01, 0.05, "more rows would help:"), (0.004, 0.001, 0.008, "help a little"),
     (0.01, -0.01, 0.03, "not clear"), (0.0, -0.004, 0.004, "would not help")],
)  # fmt: skip
def test_the_verdict_follows_the_interval(gain, low, high, said):
    assert said in learning_curve.verdict("accuracy", gain, low, high, 2000, 1.0)


def never(*_, **__):
    pytest.fail("a training was started")


def test_rows_to_score_on_are_asked_for_before_any_training(tiny, tmp_path, monkeypatch):
    make_data(tmp_path)
    monkeypatch.setattr(run, "train", never)
    values = spec_of("fine-tuning", tiny("bert"), data={"train": "train.jsonl"})
    with pytest.raises(UserError, match="neither test nor validation") as caught:
        learning_curve.curve(recipe.from_dict(values, tmp_path), (0.5, 1.0), display=QUIET)
    assert "three unknowns" in str(caught.value)  # all at once


def test_shares_of_as_many_rows_are_no_points_of_their_own(tiny, tmp_path, monkeypatch):
    make_data(tmp_path)
    monkeypatch.setattr(run, "train", never)
    with pytest.raises(UserError, match=r"0\.99: 24 rows, 1: 24 rows"):
        learning_curve.curve(recipe.from_dict(spec_of("fine-tuning", tiny("bert")), tmp_path), (0.25, 0.5, 0.99, 1.0),
                    display=QUIET)  # fmt: skip


def test_a_model_that_learnt_nothing_predicts_nothing(tiny, tmp_path):
    make_data(tmp_path)
    values = spec_of("fine-tuning", tiny("bert"), output="curve")
    values["training"] = {"max_steps": 1, "batch_size": 4, "learning_rate": 1e-9, "precision": "fp32"}
    card = learning_curve.curve(recipe.from_dict(values, tmp_path), display=QUIET)
    assert len({point["rows"] for point in card["points"]}) == 4
    assert card["verdict"].startswith("nothing can be predicted: all shares score the same")
    assert card["fit"] is None
    assert card["twice"] is None
    assert card["verdict"] in check_page((tmp_path / "curve" / "curve.html").read_text("utf-8")).text
    assert "无法预测：各数据比例的成绩在区间内没有差别" in check_chinese(learning_curve_page.page(card, "zh")).text


def test_what_holds_no_curve():
    rows, flat = np.array([100.0, 200.0, 400.0, 800.0]), [[0.1, 0.2]] * 4
    assert "3 different numbers" in learning_curve.no_forecast(
        np.array([100.0, 200.0, 400.0, 400.0]), flat, lambda: 0.5
    )
    assert (
        learning_curve.no_forecast(rows, flat, lambda: 0.5) is None
    )  # flat, and far better than by chance: more rows do not help
    assert "no better" in learning_curve.no_forecast(rows, flat, lambda: 0.2)
    rising = [[0.5, 0.6], [0.4, 0.5], [0.3, 0.4], [0.2, 0.3]]
    assert learning_curve.no_forecast(rows, rising, lambda: 0.25) is None


def test_the_trivial_answer_is_the_best_of_the_constant_ones(tiny, tmp_path):
    make_data(tmp_path)
    done = run.train(recipe.from_dict(spec_of("fine-tuning", tiny("bert")), tmp_path), display=QUIET)
    file = done.folder / "predictions" / "test.jsonl"
    told = lines(file)
    given = [{**line, "gold": "negative" if n % 4 else "positive", "prediction": "positive" if n % 3 else "negative"}
             for n, line in enumerate(told)]  # fmt: skip
    write_rows(file, given)
    task = opened_model.open_model(done.folder, None).task
    assert learning_curve.constant(task, [done], "test", "accuracy") == pytest.approx(0.25)
    assert learning_curve.constant(task, [done], "test", "loss") == np.inf


def test_a_number_below_rounding_is_0(tiny, tmp_path):
    make_data(tmp_path)
    done = run.train(recipe.from_dict(spec_of("fine-tuning", tiny("bert")), tmp_path), display=QUIET)
    parts, other = [], {"negative": "positive", "positive": "negative"}
    for rows in (100, 200, 400, 800):
        folder = tmp_path / f"part-{rows}"
        shutil.copytree(done.folder, folder)
        file = folder / "predictions" / "test.jsonl"
        told = [line if n % 7 else {**line, "gold": other[line["gold"]]} for n, line in enumerate(lines(file))]
        write_rows(file, [{**line, "prediction": good["gold"]} for line, good in zip(told, lines(file), strict=True)])
        result = json.loads(json.dumps(done.result))
        result["data"]["train"]["rows"] = rows
        result["metrics"]["test"]["accuracy"] = 17 / 20
        parts.append(run_folder.Run(folder, result))
    card = learning_curve.extrapolate(parts, (0.125, 0.25, 0.5, 1.0))
    assert "would not help" in card["verdict"]
    assert "(+0 to +0)" in card["verdict"]
    assert card["twice"]["gain"] == 0
    assert card["fit"]["b"] == 0


def test_shares_are_nested_and_their_labels_those_of_all_rows(tiny, tmp_path):
    make_data(tmp_path)
    values = spec_of("fine-tuning", tiny("bert"))

    def rows(share):
        return prepare.prepare(recipe.from_dict({**values, "data": {**values["data"], "share": share}}, tmp_path)).rows[
            "train"
        ]

    quarter, half, whole = ([row.key for row in rows(share)] for share in (0.25, 0.5, 1.0))
    assert (len(quarter), len(half), len(whole)) == (6, 12, 24)
    assert set(quarter) < set(half) < set(whole)
    assert [key for key in whole if key in set(half)] == half
    assert dataset.nested_share([], 0.5) == []


def test_a_curve_is_made_of_ordinary_runs(tiny, tmp_path):
    make_data(tmp_path)
    write_rows(tmp_path / "test.jsonl", reviews(200, seed=31))
    values = spec_of("fine-tuning", tiny("bert"), output="curve")
    values["training"] = {"epochs": 6, "batch_size": 4, "learning_rate": 5e-3, "precision": "fp32"}
    made = recipe.from_dict(values, tmp_path)
    card = learning_curve.curve(made, (0.25, 0.5, 0.75, 1.0), display=QUIET)
    folder = tmp_path / "curve"
    assert json.loads((folder / "curve.json").read_text("utf-8")) == card
    english = check_page((folder / "curve.html").read_text("utf-8"))
    assert card["verdict"] in english.text
    page = check_chinese(learning_curve_page.page(card, "zh"))
    twice = card["twice"]
    assert f"数据翻倍到 48 行，指标（准确率）预计改善 {twice['gain']:+.3g}" in page.text
    for point in card["points"]:
        assert f"{point['rows']} 行" in page.text
        assert f"{point['interval'][0]:.4f} 至 {point['interval'][1]:.4f}" in page.text
    for point in card["points"]:
        done = run_folder.finished(folder / f"share-{point['share']:g}")
        assert done.result["data"]["train"]["rows"] == point["rows"]
        assert done.result["metrics"]["test"]["accuracy"] == pytest.approx(point["value"])
        assert point["interval"] == pytest.approx(done.result["intervals"]["test"]["accuracy"], abs=0.02)
    low, high = card["twice"]["interval"]
    assert 0 <= low <= card["twice"]["value"] <= high <= 1
    assert card["twice"]["rows"] == 48
    times = [(folder / f"share-{p['share']:g}" / "result.json").stat().st_mtime_ns for p in card["points"]]
    chinese = recipe.from_dict({**values, "report": {"language": "zh"}}, tmp_path)  # a page alone is no other run
    assert learning_curve.curve(chinese, (0.25, 0.5, 0.75, 1.0), display=QUIET) == card
    assert check_chinese((folder / "curve.html").read_text("utf-8")).text == page.text
    assert json.loads((folder / "curve.json").read_text("utf-8"))["verdict"] == card["verdict"]
    assert times == [(folder / f"share-{p['share']:g}" / "result.json").stat().st_mtime_ns for p in card["points"]]


@pytest.mark.parametrize("shares", [(0.25, 0.5, 1.0), (0.25, 0.5, 1.0, 2.0), (0.0, 0.25, 0.5, 1.0)])
def test_other_shares_are_no_curve(tiny, tmp_path, shares):
    make_data(tmp_path)
    with pytest.raises(UserError, match="three unknowns"):
        learning_curve.curve(recipe.from_dict(spec_of("fine-tuning", tiny("bert")), tmp_path), shares, display=QUIET)


def test_shares_of_another_recipe_are_refused(tiny, tmp_path):
    make_data(tmp_path)
    values = spec_of("fine-tuning", tiny("bert"), output="curve")
    learning_curve.curve(recipe.from_dict(values, tmp_path), (0.25, 0.5, 0.75, 1.0), display=QUIET)
    values["training"] = {**values["training"], "learning_rate": 1e-4}
    with pytest.raises(StateRefused):
        learning_curve.curve(recipe.from_dict(values, tmp_path), (0.25, 0.5, 0.75, 1.0), display=QUIET)
