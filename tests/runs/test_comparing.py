"""Runs side by side: what differs between their recipes, what their models cost, and which nobody would take."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len

from keeltune import recipe
from keeltune.reports import comparison_page
from keeltune.runs import comparison, efficiency, recipe_differences, run, run_folder
from tests.helpers.command import keeltune
from tests.helpers.models import save_tiny
from tests.helpers.pages import check_chinese, check_page
from tests.helpers.runs import QUIET, lines, make_data, spec_of, write_rows

LONG = "a-run-of-three-epochs-on-all-rows-of-the-first-half-of-the-year"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[run_folder.Run]:
    """A teacher, a student half as deep that was distilled, and one that learnt from fewer rows; all below `runs/`."""
    folder = make_data(tmp_path_factory.mktemp("comparing"))
    model = save_tiny(folder / "base", "bert", ("negative", "positive"), 0)
    write_rows(folder / "fewer.jsonl", lines(folder / "train.jsonl")[:16])

    def train(method: str, output: str, **changes) -> run_folder.Run:
        values = spec_of(method, model, output=f"runs/{output}") | changes
        return run.train(recipe.from_dict(values, folder), display=QUIET)

    teacher = train("fine-tuning", "teacher")
    small = {"from": str(teacher.model), "layers": 1}
    training = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32", "logging_steps": 1}
    student = train("distillation", LONG, model=small, reference=str(teacher.model), training=training)
    data = {"train": "fewer.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"}
    fewer = train("fine-tuning", "fewer", model=small, data=data)
    return [teacher, student, fewer]


def folders(runs: list[run_folder.Run]) -> list[Path]:
    return [one.folder for one in runs]


def test_only_what_differs_between_recipes_is_told(runs):
    found = recipe_differences.differing(folders(runs))
    assert found["training.epochs"] == [1.0, 2.0, 1.0]
    assert found["data.train"] == ["../train.jsonl", "../train.jsonl", "../fewer.jsonl"]
    assert found["model.from"] == [None, "teacher/model", "teacher/model"]
    assert found["model.layers"] == [None, 1, 1]
    assert found["method"] == ["fine-tuning", "distillation", "fine-tuning"]
    assert not {"output", "data.validation", "training.learning_rate", "task"} & set(found)
    assert all(len({str(value) for value in values}) > 1 for values in found.values())
    assert recipe_differences.differing([runs[0].folder, runs[0].folder]) == {}


def test_paths_that_name_one_file_from_two_places_do_not_differ(runs, tmp_path):
    """A run folder's recipe names its files as seen from there."""
    text = (runs[0].folder / "recipe.yaml").read_text("utf-8")
    deeper = runs[0].folder.parent / "deeper" / "teacher"
    deeper.mkdir(parents=True)
    (deeper / "recipe.yaml").write_text(text.replace("../../", "../../../"), encoding="utf-8")
    assert recipe_differences.differing([runs[0].folder, deeper]) == {}


def test_the_speed_of_the_final_scoring_is_kept(runs):
    for one in runs:
        assert one.result["inference"]["rows"] == 32  # 12 validation rows and 20 test rows
        assert 0 < one.result["inference"]["seconds"] < 60
    line = comparison.compare(folders(runs)[:1])["runs"][0]
    told = runs[0].result
    assert line["inference_rows_per_second"] == pytest.approx(32 / told["inference"]["seconds"])
    assert line["training_rows_per_second"] == told["training"]["examples_per_second"]
    earlier = {**told, "inference": None, "training": {"seconds": 1.0}}  # of a version that did not say it
    assert set(efficiency.sizes(earlier).values()) == {None}


def point(name: str, parameters: int | None, score: float, teacher: bool = False, speed: float | None = None):
    return {"name": name, "teacher": teacher, "parameters": parameters, "inference_rows_per_second": speed,
            "target": {"value": score}}  # fmt: skip


def test_a_run_is_dominated_by_one_that_is_no_larger_and_no_worse():
    given = [point("large", 100, 0.9), point("worse", 100, 0.8), point("small", 10, 0.8), point("tiny", 5, 0.7)]
    assert efficiency.trade_off(given, 1.0) == {"by": "parameters", "dominated": {"worse": "small"}}
    assert efficiency.trade_off(given, -1.0) == {
        "by": "parameters",
        "dominated": {"large": "tiny", "worse": "tiny", "small": "tiny"},
    }
    twins = [point("one", 10, 0.8), point("other", 10, 0.8), point("larger", 20, 0.8)]
    assert efficiency.trade_off(twins, 1.0) == {"by": "parameters", "dominated": {"larger": "one"}}


def test_models_of_one_size_are_held_against_each_other_by_speed_where_one_is_a_student():
    same = [point("a", 10, 0.8, speed=100.0), point("b", 10, 0.7, teacher=True, speed=50.0)]
    assert efficiency.trade_off(same, 1.0) == {"by": "inference_rows_per_second", "dominated": {"b": "a"}}
    assert efficiency.trade_off([same[0], same[0]], 1.0) is None  # no student: size tells nothing
    unknown = [point("a", 10, 0.8, speed=None), point("b", 10, 0.7, teacher=True, speed=50.0)]
    assert efficiency.trade_off(unknown, 1.0) is None
    assert efficiency.trade_off([point("a", None, 0.8), point("b", 5, 0.7)], 1.0) is None


def test_the_page_shows_cost_and_differences_and_no_empty_column(runs):
    compared = comparison.compare(folders(runs))
    page = check_page(comparison_page.page(compared))
    for said in ("Size and speed", "parameters, millions", "training.epochs", "../fewer.jsonl", f"{LONG}"):
        assert said in page.text
    assert comparison_page.short_number(runs[0].result["training"]["parameters"]) in page.words
    assert sum(tag == "svg" for tag, _ in page.tags) >= 2  # scores, and size against score
    heads = [word for word in page.words if word in ("source", "share", "front", "weight")]
    assert heads == ["weight"]  # no source domain; the student alone has a weight
    alone = check_page(comparison_page.page(comparison.compare(folders(runs)[:1])))
    assert "p (Holm)" not in alone.words
    assert "What differs between the recipes" not in alone.text
    chinese = check_chinese(comparison_page.page(comparison.compare(folders(runs), "zh")))
    for said in ("规模与速度", "参数量（百万）", "配方之间的差异", "推理，行/秒"):
        assert said in chinese.text


def test_dominated_runs_are_named(runs):
    compared = comparison.compare(folders(runs))
    compared["trade_off"] = {"by": "parameters", "dominated": {"<b>": "fewer"}}
    assert (
        "<b> is dominated by fewer, which is no larger and scores no worse."
        in check_page(
            comparison_page.page(compared | {"runs": [{**compared["runs"][0], "name": "<b>"}, *compared["runs"][1:]]})
        ).text
    )
    compared["trade_off"]["by"] = "inference_rows_per_second"
    page = check_page(comparison_page.page(compared))
    assert "which is no slower and scores no worse." in page.text
    assert "inference, rows a second" in page.text


def test_the_tables_fit_80_columns(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert keeltune(monkeypatch, "compare", *folders(runs), "--output", tmp_path / "page.html") == 0
    said = capsys.readouterr().out
    drawn = [line for line in said.splitlines() if line[:1] in "┏┃┡│└"]
    assert len(drawn) > 20
    assert max(map(cell_len, drawn)) <= 80
    folded = "".join("".join(line.split("│")[1].split()) for line in drawn if line.startswith("│"))
    assert LONG in folded  # folded, and nothing of it cut
    assert "…" not in said
    assert "\\n" not in said
    assert "p (Holm)" in said
    assert "source" not in said  # a domain that no run has


@pytest.mark.parametrize(
    ("value", "said"),
    [(22_713_216, "22.7 M"), (1_542_000_000, "1.54 G"), (4_386, "4386"), (66_000, "66 k"), (999_999, "1 M"),
     (999_700_000, "1 G"), (410.26, "410"), (8.813, "8.81"), (0.0, "0")],
)  # fmt: skip
def test_a_size_is_short(value, said):
    assert comparison_page.short_number(value) == said
