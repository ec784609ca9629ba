"""The learning curve: nested shares of equal steps, and what a command leaves behind."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from keeltune import recipe
from keeltune.advisor import learning_curve
from keeltune.data import dataset
from keeltune.reports import learning_curve_page
from keeltune.runs import run, run_folder
from keeltune.training.preparation import prepare
from keeltune.utils.errors import StateRefused, UserError
from keeltune.utils.progress import Display
from tests.helpers.pages import check_chinese, check_page
from tests.helpers.runs import make_data, reviews, spec_of, write_rows

QUIET = Display(quiet=True)


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
    assert [len(point["draws"]) for point in card["points"]] == [2, 2, 2, 1]  # one step is a short training
    assert card["curve"] == []
    assert card["verdict"].startswith("nothing can be predicted: all shares score the same")
    assert card["fit"] is None
    assert card["twice"] is None
    assert card["verdict"][1:] in check_page((tmp_path / "curve" / "curve.html").read_text("utf-8")).text
    assert "无法预测：各数据比例的成绩在区间内没有差别" in check_chinese(learning_curve_page.page(card, "zh")).text


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
    with_seed = {**values, "data": {**values["data"], "share": 0.5, "share_seed": 1}}
    other = {row.key for row in prepare.prepare(recipe.from_dict(with_seed, tmp_path)).rows["train"]}
    assert len(other) == 12 and other != set(half)


def labelled(counts):
    """Rows of labels 0, 1, …, so many of each, and their labels' numbers."""
    codes = np.repeat(np.arange(len(counts)), counts)
    rows = [dataset.Row(fields={}, key=hashlib.sha256(b"%d" % n).hexdigest(), file="f", line=n + 1)
            for n in range(len(codes))]  # fmt: skip
    return rows, codes


@pytest.mark.parametrize("seed", range(5))
def test_shares_hold_each_label_as_often(seed):
    counts = [300, 100, 37, 5]
    rows, codes = labelled(counts)
    before: set[int] = set()
    for share in (0.03, 0.125, 0.25, 0.5, 0.77, 1.0):
        taken = {row.line - 1 for row in dataset.nested_share(rows, share, codes, seed)}
        assert before <= taken and len(taken) == round(share * len(rows))
        before = taken
        for label, count in enumerate(counts):
            assert abs(sum(codes[line] == label for line in taken) - share * count) < 2


def test_a_label_of_one_row_is_in_a_share_as_often_as_any_row():
    rows, codes = labelled([1] * 400)
    taken = [len({row.line for row in dataset.nested_share(rows, 0.25, codes, seed)} & set(range(1, 201)))
             for seed in range(10)]  # fmt: skip
    assert 350 < sum(taken) < 650  # half of 1,000
    assert len({row.line for seed in range(10) for row in dataset.nested_share(rows, 0.25, codes, seed)}) > 350


@pytest.mark.parametrize("evaluation", [{}, {"every": 3, "patience": None}])
def test_every_share_takes_as_many_steps_and_is_measured_as_often(tiny, tmp_path, evaluation):
    make_data(tmp_path)
    values = spec_of("fine-tuning", tiny("bert"), output="curve", evaluation=evaluation)
    values["data"] |= {"validation": "test.jsonl"}
    values["training"] = {"epochs": 3, "batch_size": 4, "precision": "fp32"}
    runs = learning_curve.train_shares(recipe.from_dict(values, tmp_path), draws=1, display=QUIET)
    assert [one.run.result["data"]["train"]["rows"] for one in runs] == [3, 6, 12, 24]
    measured = []
    for one in runs:
        told = [json.loads(line) for line in (one.run.folder / "log.jsonl").read_text("utf-8").splitlines()]
        measured.append([line["step"] for line in told if "eval_accuracy" in line])
        assert one.run.result["training"]["steps"] == 18  # three epochs of all rows
    assert measured[0][-1] == 18 and len(measured[0]) >= 3 and all(steps == measured[0] for steps in measured)


def test_a_curve_is_made_of_ordinary_runs(tiny, tmp_path):
    make_data(tmp_path)
    write_rows(tmp_path / "test.jsonl", reviews(200, seed=31))
    values = spec_of("fine-tuning", tiny("bert"), output="curve")
    values["training"] = {"epochs": 6, "batch_size": 4, "learning_rate": 5e-3, "precision": "fp32"}
    made = recipe.from_dict(values, tmp_path)
    card = learning_curve.curve(made, (0.25, 0.5, 0.75, 1.0), draws=1, display=QUIET)
    folder = tmp_path / "curve"
    assert json.loads((folder / "curve.json").read_text("utf-8")) == card
    english = check_page((folder / "curve.html").read_text("utf-8"))
    assert card["verdict"][1:] in english.text  # the page begins it with a capital
    page = check_chinese(learning_curve_page.page(card, "zh"))
    twice = card["twice"]
    assert f"数据翻倍到 48 行，指标（准确率）预计由 {card['points'][-1]['value']:.3g} 变为" in page.text
    for point in card["points"]:
        assert f"{point['interval'][0]:.4f} 至 {point['interval'][1]:.4f}" in page.text
    for point in card["points"]:
        done = run_folder.finished(folder / f"share-{point['share']:g}")
        assert done.result["data"]["train"]["rows"] == point["rows"]
        assert done.result["metrics"]["test"]["accuracy"] == pytest.approx(point["value"])
        assert point["interval"] == pytest.approx(done.result["intervals"]["test"]["accuracy"], abs=0.02)
    low, high = card["twice"]["interval"]
    assert 0 <= low <= card["twice"]["value"] <= high <= 1
    assert card["twice"]["rows"] == 48 and twice["value"] >= card["points"][-1]["value"]
    assert [at["rows"] for at in card["curve"]][:: len(card["curve"]) - 1] == pytest.approx([6, 48])
    times = [(folder / f"share-{p['share']:g}" / "result.json").stat().st_mtime_ns for p in card["points"]]
    chinese = recipe.from_dict({**values, "report": {"language": "zh"}}, tmp_path)  # a page alone is no other run
    assert learning_curve.curve(chinese, (0.25, 0.5, 0.75, 1.0), draws=1, display=QUIET) == card
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
