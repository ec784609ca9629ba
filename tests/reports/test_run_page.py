"""The run's page: whole in one file, nothing from outside, and every word of the user's data stays text."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from string import Formatter

import pytest

from keeltune import recipe
from keeltune.advisor import candidates
from keeltune.evaluation import miscalibration, overfitting
from keeltune.recipe.regularizer_fields import find_regularizer, regularizer_names
from keeltune.reports import run_page
from keeltune.reports.findings import forgetting, method, next_step
from keeltune.reports.localization import NAMING, translator
from keeltune.reports.sections import changed_rows, headline, outputs
from keeltune.reports.sections import data as data_section
from keeltune.runs import run, run_folder
from keeltune.utils import registry
from keeltune.utils.messages import Message
from keeltune.utils.progress import Display
from tests.helpers.pages import CHINESE, NAMES, Page, check_chinese, check_page
from tests.helpers.runs import lines, make_data, spec_of, write_rows

HOSTILE = ['"onerror=alert(1) x="', "<script>alert(1)</script>", "{{ 7 * 7 }} &lt;b&gt; ' ]]>"]
NAME = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> run_folder.Run:
    """A run whose labels, texts and folder would be markup if anything forgot to escape them."""
    folder = make_data(tmp_path_factory.mktemp("report"))
    for name in ("train", "validation", "test"):
        rows = lines(folder / f"{name}.jsonl")
        write_rows(
            folder / f"{name}.jsonl",
            [
                {"text": f"{row['text']} <script>alert(2)</script>", "label": HOSTILE[i % 3]}
                for i, row in enumerate(rows)
            ],
        )
    spec = {
        "task": "text-classification", "method": "fine-tuning", "model": str(tiny("bert")), "output": NAME,
        "data": {name: f"{name}.jsonl" for name in ("train", "validation", "test")},
        "training": {"epochs": 1, "batch_size": 8, "precision": "fp32", "logging_steps": 1},
    }  # fmt: skip
    return run.train(recipe.from_dict(spec, folder), display=Display(quiet=True))


def test_the_page_is_whole_and_asks_for_nothing(finished):
    page = check_page((finished.folder / "report.html").read_text(encoding="utf-8"))
    charts = 5  # intervals, calibration, losses, validation scores, labels
    assert sum(a.get("class") == "chart" for _, a in page.tags) == charts + len(finished.result["bias"]["slices"]) == 8


def test_hostile_names_stay_text(finished):
    html = (finished.folder / "report.html").read_text(encoding="utf-8")
    text = check_page(html).text
    for word in (*HOSTILE, NAME):
        assert word in text
    assert "<script" not in html


def test_it_says_what_result_json_says(finished):
    page = Page((finished.folder / "report.html").read_text(encoding="utf-8"))
    for split in ("validation", "test"):
        for name, value in finished.result["metrics"][split].items():
            if name != "by_label":
                assert f"{value:.4f}" in page.text
                low, high = finished.result["intervals"][split][name]
                assert f"{low:.4f} to {high:.4f}" in page.text
    assert "–" in page.text  # nothing before: the head is new
    assert finished.result["data"]["train"]["fingerprint"][:16] in page.text
    assert (finished.folder / "recipe.yaml").read_text() in page.text


def test_hostile_results_stay_text(finished, tmp_path):
    """What a crafted folder says is not believed either."""
    folder = tmp_path / NAME
    (folder / "predictions").mkdir(parents=True)
    for name in ("recipe.yaml", "log.jsonl"):
        (folder / name).write_text(
            (finished.folder / name).read_text() + ("# <script>x</script>\n" if name[0] == "r" else "")
        )
    line = {
        "row": NAME,
        "key": HOSTILE[2],
        "prediction": [HOSTILE[1]],
        "gold": HOSTILE[0],
        "score": 0.0,
        "probabilities": {HOSTILE[1]: 1.0},
    }
    (folder / "predictions" / "test.jsonl").write_text(json.dumps(line) + "\n")
    result = json.loads(json.dumps(finished.result))
    for field in ("task", "keeltune"):
        result[field] = HOSTILE[1]
    result["environment"]["device"] = NAME
    result["metrics"]["test"] = {
        NAME: 0.5,
        "by_label": {HOSTILE[1]: {"precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 1}},
    }
    result["intervals"]["test"] = {NAME: [0.4, 0.6]}
    result["objective"] |= {"weight": 1.0, "divergence_name": HOSTILE[1]}
    check_page(run_page.page(folder, result))


def test_a_run_without_validation_and_test_has_a_page(finished, tmp_path):
    result = json.loads(json.dumps(finished.result))
    result["metrics"]["validation"] = result["metrics"]["test"] = None
    result["intervals"]["validation"] = result["intervals"]["test"] = None
    (tmp_path / "recipe.yaml").write_text("task: x\n")
    page = check_page(run_page.page(tmp_path, result))
    assert "nothing was logged" in page.text


def test_the_model_card_names_the_scores(finished):
    card = (finished.model / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"| accuracy | {finished.result['metrics']['test']['accuracy']:.4f} |" in card
    assert str(Path(finished.folder).parent) not in card


# Chinese


def template_sentences() -> set[str]:
    """Every sentence that a template of a page, or of one of its sections, says in a language."""
    sections = [section.template for section in run_page.sections_of([])]
    text = "".join(file.read_text("utf-8") for file in (REPORTS / "templates").glob("*.html")) + "".join(sections)
    found = set(re.findall(r'_\("((?:[^"\\]|\\.)*)"', text))
    for heads in re.findall(r"heads\(\[(.*?)\]\)", text, re.DOTALL):
        found |= {name.lstrip("#") for name in re.findall(r'"(.*?)"', heads) if name}
    return found


REPORTS = Path(run_page.__file__).parent
CALLED = ("Message", "say", "run.say", "self.say", "names.say", "add", "Refused")
"""What is called with a sentence."""


def said_sentences() -> set[str]:
    """Every template of a `Message` of the package, what its pages look up, and the names of the advisor's arms."""
    found = set()
    for file in REPORTS.parent.rglob("*.py"):
        text = file.read_text("utf-8")
        if "Message(" not in text and "say(" not in text and "Refused(" not in text:
            continue
        tree = ast.parse(text)
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for node in ast.walk(function):
                named = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "template"
                if named and isinstance(node.value, ast.Constant):
                    found.add(node.value.value)
                said = isinstance(node, ast.Call) and ast.unparse(node.func) in CALLED and node.args
                if said and isinstance(node.args[0], ast.Constant):
                    found.add(node.args[0].value)
    phrases = {name: find_regularizer(name).phrase for name in regularizer_names()}
    tables = (overfitting.VERDICTS, method.METHODS, phrases)
    tables += (forgetting.DOMAINS, forgetting.GAPS, forgetting.SHIFTS, miscalibration.SIDES, next_step.ADVICE)
    tables += (headline.MADE, headline.CONFIDENT, outputs.TITLES, outputs.LEGENDS)
    found |= {changed_rows.LOST, changed_rows.WON}
    return found | {candidates.PLAIN} | {text for table in tables for text in table.values()}


def test_every_sentence_is_there_in_chinese_with_the_same_values():
    sentences = template_sentences() | said_sentences()
    assert len(sentences) > 200
    assert sorted(sentences - set(CHINESE)) == []
    for english, chinese in CHINESE.items():
        fields = [sorted(name for _, name, _, _ in Formatter().parse(text) if name) for text in (english, chinese)]
        assert fields[0] == fields[1], english


def metric_names() -> set[str]:
    shelf = [registry.find("metrics", file) for file in registry.names("metrics")]
    return {name for metric in shelf for name in metric.names}


def test_every_name_of_ours_is_said_in_chinese():
    ours = {*registry.names("tasks"), *registry.names("divergences"), *method.METHODS, *metric_names()}
    assert len(ours) > 30
    assert sorted(ours - set(NAMES)) == []
    say = translator("zh")
    assert say("macro_f1") == "宏平均 F1"
    for template in CHINESE:
        for name in NAMING - {"kind"}:  # Chinese or Latin: no spacing beside a letter fits both
            near = re.compile(rf"[一-龥] ?\{{{name}\}}|\{{{name}\}} ?[一-龥]")
            assert near.search(CHINESE[template]) is None, template
    assert say("{n} runs of {task}", n=2, task="translation") == "机器翻译：2 次训练"
    assert say(Message("{metric} of {who}", metric="wer", who="wer")) == "词错误率（WER） of wer"  # a user's word stays


def test_a_page_in_chinese(tiny, tmp_path):
    folder = make_data(tmp_path)
    values = spec_of("distillation", tiny("bert"), reference=str(tiny("bert", seed=1)), report={"language": "zh"})
    done = run.train(recipe.from_dict(values, folder), display=Display(quiet=True))
    html = (done.folder / "report.html").read_text("utf-8")
    page = check_chinese(html)
    for word in ("结果", "过拟合", "校准", "教师模型", "学习曲线", "标签分布", "长度分布", "开销", "95 % 置信区间"):
        assert word in page.text
    for english in ("Result", "Overfitting", "Verdict", "Learning curves", "interval", "rows skipped"):
        assert english not in page.text.replace("keeltune", "")


# The data's audit

LONG = "<script>alert(9).jsonl"


@pytest.fixture(scope="module")
def audited(tiny, tmp_path_factory) -> run_folder.Run:
    """A run on rows with every fault that the audit counts, planted by hand, under a file name that is markup."""
    folder = make_data(tmp_path_factory.mktemp("audited"))
    train, test = lines(folder / "train.jsonl"), lines(folder / "test.jsonl")
    other = {"negative": "positive", "positive": "negative"}
    faulty = [
        *train,
        train[0],  # two repeats
        train[0],
        {"text": train[1]["text"], "label": other[train[1]["label"]]},  # two rows that contradict each other
        *test[:3],  # three rows of the test
        {"text": " ".join(["good"] * 40), "label": "positive"},  # one that is cut
        {"text": " ", "label": "positive"},  # two that are skipped
        {"text": "good", "label": "other"},
    ]
    write_rows(folder / LONG, faulty)
    spec = spec_of("fine-tuning", tiny("bert"), report={"language": "zh"}, max_length=16)
    spec["data"] |= {"train": LONG, "bad_rows": "skip", "labels": ["negative", "positive"]}
    return run.train(recipe.from_dict(spec, folder), display=Display(quiet=True))


def test_the_audit_counts_what_was_planted(audited):
    found = json.loads((audited.folder / "result.json").read_text("utf-8"))["audit"]
    train, rows = found["splits"]["train"], audited.result["data"]["train"]["rows"]
    assert (train["rows"], train["examples"], rows) == (31, 31, 31)
    assert (train["repeated"], train["conflicting"], train["truncated"]) == (2, 2, 1)
    kept = [row["label"] for row in lines(audited.folder.parent / LONG)][:-2]
    assert train["labels"] == {name: kept.count(name) for name in ("negative", "positive")}
    assert train["lengths"]["max"] == 16
    assert list(train["lengths"].values()) == sorted(train["lengths"].values())
    assert found["shared"] == [{"splits": ["train", "test"], "rows": 3}]
    assert found["skipped"] == {"empty text": 1, "unknown label": 1}
    assert {w["kind"] for w in found["warnings"]} >= {
        "rows shared by train, test",
        "conflicts in train",
        "repeated rows",
    }
    clean = found["splits"]["validation"]
    assert (clean["rows"], clean["repeated"], clean["conflicting"], clean["truncated"]) == (12, 0, 0, 0)
    assert "3 of 20 rows of test are in train too" in json.dumps(found, ensure_ascii=False)  # for tools: in English


def test_the_page_shows_the_audit_in_both_languages(audited, tmp_path):
    html = (audited.folder / "report.html").read_text("utf-8")
    page, splits = check_chinese(html), audited.result["audit"]["splits"]
    assert "<script" not in html
    assert LONG in page.text
    for said in (
        "测试集的 20 行中有 3 行也在训练集中",
        "训练集中有 2 行输入相同而标签不同",
        "训练集中有 2 行重复",
        "训练集的 31 行中有 1 行（3.2%）超过 16 个词元而被截断",
        "请从训练集或测试集中去掉",
        "空文本 1，未知标签 1",
    ):
        assert said in page.text
    english = tmp_path / "english"
    shutil.copytree(audited.folder, english, ignore=shutil.ignore_patterns("model", "checkpoints"))
    text = (english / "recipe.yaml").read_text("utf-8")
    (english / "recipe.yaml").write_text(text.replace("language: zh", "language: en"), encoding="utf-8")
    stored = json.loads((english / "result.json").read_text("utf-8"))
    other = check_page(run_page.page(english, stored))
    assert "warning: 3 of 20 rows of test are in train too" in other.text
    for one in (page, other):
        for split in splits.values():
            for label, count in split["labels"].items():
                assert f"{count} · {100 * count / split['rows']:.3g} %" in one.text
                assert label in one.words
            assert f"{split['lengths']['median']:.4g}" in one.words


def test_many_labels_are_counted_in_words(finished, tmp_path):
    result = json.loads(json.dumps(finished.result))
    result["audit"]["splits"]["train"]["labels"] = {f"label {n}": n + 1 for n in range(30)}
    result["audit"]["warnings"] = [{"found": f"fault {n}", "mend": HOSTILE[1], "where": NAME} for n in range(25)]
    (tmp_path / "recipe.yaml").write_text("task: x\n")
    page = check_page(run_page.page(tmp_path, result))
    assert "train: 30 labels, in 1 to 30 rows each." in page.text
    assert "Rows with each label" not in page.text
    assert page.text.count("warning: fault") == data_section.WARNINGS
    assert "and 5 more warnings" in page.text
    result.pop("audit")  # a run of an earlier version
    assert "Lengths" not in check_page(run_page.page(tmp_path, result)).text
