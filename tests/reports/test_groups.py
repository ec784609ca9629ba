"""What a page says of its rows: what an interval is over, how often they were looked at, how groups of them fare."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from keeltune import recipe
from keeltune.reports import comparison_page, localization, run_page
from keeltune.reports.groups import CHARTED, group_names
from keeltune.runs import comparison, run, run_folder
from keeltune.utils.progress import Display
from tests.helpers.pages import Page, check_page
from tests.helpers.runs import lines, make_data, spec_of, write_rows


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> run_folder.Run:
    values = spec_of("fine-tuning", tiny("bert"))
    values["training"] = {"batch_size": 8, "max_steps": 2}
    return run.train(
        recipe.from_dict(values, make_data(tmp_path_factory.mktemp("groups"))), display=Display(quiet=True)
    )


# What an interval is over


def in_chinese(folder: Path) -> None:
    text = (folder / "recipe.yaml").read_text("utf-8")
    assert text.count("language: en") == 1
    (folder / "recipe.yaml").write_text(text.replace("language: en", "language: zh"), encoding="utf-8")


def clustered_run(tiny, folder: Path, **changes) -> run_folder.Run:
    """A run whose test rows are in 4 clusters and whose validation rows in 6; the column's name would be markup."""
    for name, count in (("validation", 6), ("test", 4)):
        rows = lines(folder / f"{name}.jsonl")
        write_rows(folder / f"{name}.jsonl", [{**row, "<b>who": f"w{i % count}"} for i, row in enumerate(rows)])
    values = spec_of("fine-tuning", tiny("bert"), evaluation={"clusters": "<b>who"}, **changes)
    values["training"] = {"batch_size": 8, "max_steps": 2, **changes.get("training", {})}
    return run.train(recipe.from_dict(values, folder), display=Display(quiet=True))


def test_intervals_over_clusters_say_so(tiny, tmp_path):
    done = clustered_run(tiny, make_data(tmp_path))
    page = check_page((done.folder / "report.html").read_text("utf-8"))
    assert "percentile bootstrap over clusters of <b>who" in page.text
    assert "95 % interval over clusters of <b>who" in page.text
    assert "over rows" not in page.text
    assert "† Clusters of <b>who in test: 4. With fewer than 5" in page.text
    assert page.text.count("too narrow (clusters: 4)") == len(done.result["intervals"]["test"])
    assert "Clusters of <b>who in validation" not in page.text  # six are enough
    assert "test: accuracy †" in page.words
    assert "validation: accuracy" in page.words
    card = (done.model / "README.md").read_text("utf-8")
    assert "over clusters of &lt;b&gt;who in the test rows alone" in card
    assert "too narrow to be trusted" in card
    in_chinese(done.folder)
    chinese = check_page(run_page.page(done.folder, done.result))
    assert "按 <b>who 整簇重抽样" in chinese.text
    assert "测试集中 <b>who 的簇数：4" in chinese.text
    assert "本文件夹中的训练结果在这些测试数据上只评过一次分" in chinese.text
    assert "过窄（簇数：4）" in chinese.text


def test_pools_and_comparisons_say_it_too(tiny, tmp_path):
    folder = make_data(tmp_path)
    done = clustered_run(tiny, folder, training={"seed": [0, 1]})
    page = check_page((done.folder / "report.html").read_text("utf-8"))
    assert "bootstrap over clusters of <b>who and seeds" in page.text
    assert "95 % interval over clusters of <b>who and seeds" in page.text
    assert "in test: 4. With fewer than 5" in page.text
    plain = run.train(
        recipe.from_dict(spec_of("fine-tuning", tiny("bert"), output="plain"), folder), display=Display(quiet=True)
    )
    for runs in ([done.folder, plain.folder], [plain.folder, done.folder]):  # the clusters of one are drawn for both
        page = check_page(comparison_page.page(comparison.compare(runs)))
        assert "percentile bootstrap over clusters of <b>who" in page.text
        assert "accuracy, 95 % interval over clusters of <b>who †" in page.words
        assert "† Clusters of <b>who in test: 4" in page.text
        assert "over rows" not in page.text
        assert "McNemar" not in page.text
    alone = comparison_page.page(comparison.compare([plain.folder, plain.folder]))
    assert "percentile bootstrap over rows" in Page(alone).text
    assert "†" not in alone


def test_the_looks_at_the_test_rows_are_told(finished, tmp_path):
    html = (finished.folder / "report.html").read_text("utf-8")
    assert "When this page was written, these test rows had been scored once" in Page(html).text
    again = shutil.copytree(finished.folder, tmp_path / "again", ignore=shutil.ignore_patterns("model", "checkpoints"))
    known = lines(again / "looks.jsonl")
    write_rows(again / "looks.jsonl", [*known, *known, {**known[0], "fingerprint": "of other rows"}])
    assert "had been scored 2 times" in check_page(run_page.page(again, finished.result)).text
    with (again / "looks.jsonl").open("a") as stream:
        stream.write('{"when": "2026')  # cut by a full disk
    assert "had been scored 2 times" in check_page(run_page.page(again, finished.result)).text
    (again / "looks.jsonl").unlink()
    assert "had been scored" not in check_page(run_page.page(again, finished.result)).text


# Groups


def group(rows: int, value: float, interval: list[float] | None) -> dict:
    return {"rows": rows, "value": value, "interval": interval, "small": rows < 100}


def column(groups: dict, worst: str | None = None, gap: float | None = None) -> dict:
    return {"groups": groups, "worst": worst, "gap": gap, "equalised_odds": None, "equalised_odds_interval": None}


COLUMNS = {
    "length": column({"long": group(8, 0.5, None), "short": group(120, 0.75, [0.6, 0.9])}),
    "yes": column({"red": group(200, 0.25, None), "long": group(150, 0.5, None)}, "red", 0.25),
    "many": column({f"g{n}": group(101 if n == 3 else 200, 0.5, [0.4, 0.6]) for n in range(30)}, "g3", 0.125),
}
"""Our own column, one of the user's that the dictionary has words for, and one of many groups."""


def with_groups(finished, folder: Path, columns: dict, language: str = "en", **changes) -> Page:
    text = (finished.folder / "recipe.yaml").read_text("utf-8")
    (folder / "recipe.yaml").write_text(text.replace("language: en", f"language: {language}"), encoding="utf-8")
    result = json.loads(json.dumps(finished.result))
    bias = {"split": "test", "metric": "accuracy", "slices": columns, "counterfactual": None, "words": []}
    result["bias"] = bias | changes
    return check_page(run_page.page(folder, result))


def test_every_group_is_drawn_and_every_gap_said(finished, tmp_path):
    page = with_groups(finished, tmp_path, COLUMNS)
    for name in ("long (8) *", "short (120)", "red (200)", "long (150)", "g3 (101)"):
        assert name in page.words
    hollow = [a["class"] for tag, a in page.tags if tag == "circle" and "hollow" in (a["class"] or "")]
    assert len(hollow) == 3
    assert "Worst: red, 0.250 worse than the best." in page.text  # though none of its groups has an interval
    assert "Worst: g3, 0.125 worse than the best." in page.text
    assert page.text.count("*: fewer than 100 rows, too few to conclude from.") == 1
    assert page.text.count("A hollow point has no interval: fewer than 20 rows.") == 2
    assert sum(word.startswith("g") and word.endswith(("(200)", "(101)")) for word in page.words) == CHARTED
    assert "and 10 more groups, which are in result.json" in page.text


def test_without_groups_there_is_no_heading_of_them(finished, tmp_path):
    assert "Groups (test)" in with_groups(finished, tmp_path, COLUMNS).words
    assert "Groups (test)" not in with_groups(finished, tmp_path, {}).words


def test_only_our_own_names_are_translated(finished, tmp_path):
    thirds = {"words": column({"common words": group(84, 0.5, [0.4, 0.6]), "mixed": group(83, 0.5, [0.4, 0.6])})}
    label = {"label": column({"source": group(50, 0.5, [0.4, 0.6]), "red": group(50, 0.5, [0.4, 0.6])})}
    page = with_groups(finished, tmp_path, COLUMNS | thirds | label, "zh")
    for name in ("长 (8) *", "短 (120)", "常见词 (84) *", "混合 (83) *", "red (200)", "long (150)", "source (50) *"):
        assert name in page.words
    assert {"长度", "用词", "标签", "yes", "many"} <= set(page.words)
    assert "最差：red，" in page.text
    theirs = {"length": column({"long": group(200, 0.5, None), "tall": group(200, 0.5, None)}, "long", 0.0)}
    page = with_groups(finished, tmp_path, theirs, "zh")
    assert {"length", "long (200)"} <= set(page.words)
    assert "最差：long，" in page.text
    beside = {"length": column({"long": group(200, 0.5, None)}), "length (thirds)": COLUMNS["length"]}
    page = with_groups(finished, tmp_path, beside, "zh")
    assert {"length", "long (200)", "长度（三等分）", "长 (8) *"} <= set(page.words)


def test_kinds_of_the_users_own_terms_are_not_translated(finished, tmp_path):
    flips = {"rows": 2, "flips": 1, "flip_rate": 0.5, "interval": [0.1, 0.9], "mean_change": 0.1}
    found = {"terms": "built in", **flips, "by_kind": {"name": flips, "all": flips}, "examples": []}
    found["examples"].append({"row": 7, "text": "he", "before": "yes", "changed": "she", "after": "no"})
    page = with_groups(finished, tmp_path, {}, "zh", counterfactual=found)
    assert "第 7 行：“he” yes → “she” no" in page.text
    assert {"全部", "姓名"} <= set(page.words)
    assert "内置" in page.text
    text = (tmp_path / "recipe.yaml").read_text("utf-8")
    assert text.count("\nevaluation:\n") == 1
    (tmp_path / "recipe.yaml").write_text(text.replace("\nevaluation:\n", "\nevaluation:\n  terms: name\n"))
    bias = {"split": "test", "metric": "accuracy", "slices": {}, "words": []}
    bias["counterfactual"] = found | {"terms": "name"}
    page = check_page(run_page.page(tmp_path, finished.result | {"bias": bias}))
    assert {"全部", "name", "all"} <= set(page.words)
    assert "把词语（name）" in page.text


def test_a_comparison_and_a_domains_table_leave_the_users_names(finished, tmp_path):
    changed = {"rows": 30, "before": 0.5, "after": 0.5, "change": 0.0, "interval": [-0.1, 0.1]}
    card = comparison.compare([finished.folder, finished.folder], "zh")
    made = {"rows": 30, "values": [0.5, 0.5], "small": True}
    card["groups"]["slices"] = {"name": {"long": made}, "length": {"long": made, "short": made}}
    card["groups"]["gap"] = {"name": [0.1, 0.1], "length": [0.2, 0.2]}
    words = check_page(comparison_page.page(card)).text
    for said in ("p 值（Holm）", "name：long", "长度：长", "name：最好组", "长度：最好组"):
        assert said in words
    shared = {"name": {"red": changed}, "length": {"long": changed, "short": changed}}
    assert group_names(shared, "sentiment-analysis", localization.translator("zh")).value("name", "red") == "red"
    result = json.loads(json.dumps(finished.result))
    metrics = {"accuracy": {"before": 0.5, "after": 0.5, "change": 0.0, "interval": [-0.1, 0.1]}}
    by_label = {"yes": changed | {"interval": None}}
    domain = {"split": "source", "metric": "accuracy", "metrics": metrics, "by_label": by_label, "slices": shared}
    domain |= {"rows": 30, "clusters": None, "retention": 1.0, "mcnemar": None, "lost": [], "won": 0}
    control = domain | {"split": "source_validation"}
    result["forgetting"] = {"source": domain, "control": control, "target": None, "gap": None,
                            "divergence": {"source": None, "target": None}}  # fmt: skip
    text = (finished.folder / "recipe.yaml").read_text("utf-8")
    (tmp_path / "recipe.yaml").write_text(text.replace("language: en", "language: zh"), encoding="utf-8")
    words = check_page(run_page.page(tmp_path, result)).words
    assert {"name（源域）", "red", "长度（源域）", "长", "标签（源域）", "yes"} <= set(words)
    assert {"源域：准确率", "对照集：准确率", "+0.000（行数太少）"} <= set(words)
