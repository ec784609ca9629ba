"""The headline of a run's page: what was trained, how good, how sure, what it cost, and the one thing to do next."""

from __future__ import annotations

import copy
import re

import pytest

from keeltune import recipe
from keeltune.evaluation import calibration, miscalibration, overfitting
from keeltune.reports import run_page
from keeltune.reports.findings import method
from keeltune.reports.findings.next_step import ADVICE, next_step
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.headline import Headline, duration
from keeltune.runs import run, run_folder
from keeltune.runs.result_shape import empty
from tests.helpers.pages import check_chinese, check_page
from tests.helpers.runs import QUIET, lines, make_data, spec_of

NAMES = ("gap", "validation loss", "confident errors", "calibration", "gradient norm", "learnt", "beyond chance",
         "duplicates", "drift", "seeds")  # fmt: skip


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> run_folder.Run:
    folder = make_data(tmp_path_factory.mktemp("headline"))
    spec = spec_of("fine-tuning", tiny("bert"))
    spec["training"] |= {"lora": {"rank": 4}}
    return run.train(recipe.from_dict(spec, folder), display=QUIET)


def test_the_headline_says_what_the_result_says(finished):
    page = check_page((finished.folder / "report.html").read_text("utf-8"))
    result, training = finished.result, finished.result["training"]
    text = page.text[: page.text.index("Result")]
    assert "fine-tuned for sentiment-analysis on 24 rows, by LoRA of rank 4" in text
    assert training["lora"] == {"rank": 4, "modules": "all-linear"}
    assert 0 < training["trained_parameters"] < training["parameters"]
    trained, every = training["trained_parameters"], training["parameters"]
    assert f"LoRA of rank 4 on all-linear: {trained:,} of {every:,} parameters were trained" in text
    low, high = result["intervals"]["test"]["accuracy"]
    score = result["metrics"]["test"]["accuracy"]
    assert f"accuracy {score:.3f} ({low:.3f} to {high:.3f}) on 20 rows of test" in text
    before = result["metrics"]["before"]["test"]
    golds = [line["gold"] for line in lines(finished.folder / "predictions" / "test.jsonl")]
    commonest = max(golds.count(gold) for gold in golds) / len(golds)
    beside = f"{before['accuracy']:.3f} before training" if before else f"{commonest:.3f} by always the commonest label"
    assert beside in text
    predicted = lines(finished.folder / "predictions" / "test.jsonl")
    confidence = sum(max(line["probabilities"].values()) for line in predicted) / len(predicted)
    assert f"(mean confidence {confidence:.3f}, {score:.3f} right)" in text
    assert f"{training['peak_memory_bytes'] / 2**30:.1f} GiB of memory at most" in text
    assert f"Next: {next_step(result)}." in text


def test_the_headline_in_chinese(finished, tmp_path):
    text = (finished.folder / "recipe.yaml").read_text("utf-8")
    (tmp_path / "recipe.yaml").write_text(re.sub(r"language: en", "language: zh", text), encoding="utf-8")
    result = copy.deepcopy(dict(finished.result))
    result["overfitting"] = {"verdict": "x", "signals": [{"name": "gap", "light": "red", "value": 1.0, "said": "y"}]}
    headline = Headline().values(FinishedRun(tmp_path, result))
    assert headline["advice"] == "下一步：增加训练数据，或减少训练轮数并启用正则化（training.regularizers）。"
    assert "微调，任务：情感分析，24 行数据，LoRA 的秩为 4" in headline["sentence"]
    assert "测试集 20 行，准确率" in headline["sentence"]
    result["overfitting"] = None
    check_chinese(run_page.page(tmp_path, result))


# What to do next


def of(**values) -> dict:
    """A run with nothing to mend, and what a test changes of it."""
    whole = empty() | {"method": "fine-tuning", "data": {"test": {"rows": 1000}}}
    whole["metrics"] |= {"validation": {"accuracy": 0.9}, "test": {"accuracy": 0.9}}
    whole["intervals"] |= {"test": {"accuracy": [0.88, 0.92]}}
    return whole | values


def signs(**lights: str) -> dict:
    named = [
        {"name": name.replace("_", " "), "light": light, "value": 0.0, "said": ""} for name, light in lights.items()
    ]
    return {"overfitting": {"verdict": "", "signals": named}}


def test_nothing_to_mend():
    assert next_step(of()).startswith("read its mistakes below")


@pytest.mark.parametrize("light", ["red", "amber"])
@pytest.mark.parametrize("name", NAMES)
def test_every_sign_that_is_not_green_has_its_advice(name, light):
    assert next_step(of(**signs(**{name.replace(" ", "_"): light}))) == ADVICE[name]
    assert next_step(of(**signs(**{name.replace(" ", "_"): "green"}))).startswith("read its mistakes")


def test_every_verdict_has_an_advice():
    assert set(overfitting.VERDICTS) <= set(ADVICE)


CUT = {"cut": {"test": [3, 10]}, "settings": {"max_new_tokens": 8}}


def fell(low: float, high: float, metric: str = "accuracy") -> dict:
    return {"source": {"metric": metric, "metrics": {metric: {"interval": [low, high]}}}}


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (of(**signs(gap="amber", learnt="red")), ADVICE["learnt"]),  # red before amber
        (of(**signs(calibration="red", duplicates="red")), ADVICE["duplicates"]),  # in the verdict's order
        (of(generation=CUT, **signs(gap="amber")), "raise generation.max_new_tokens"),
        (of(generation=CUT, **signs(gap="red")), ADVICE["gap"]),
        (of(budget={"held": False, "kind": "max_kl"}), "give the budget more room, or train on: max_kl"),
        (of(budget={"held": True, "kind": "max_kl"}), "read its mistakes"),
        (of(forgetting=fell(-0.2, -0.1)), "hold it nearer to its start"),
        (of(forgetting=fell(-0.2, 0.1)), "read its"),
        (of(forgetting=fell(0.1, 0.2, "wer")), "hold it nearer"),
        (of(audit={"warnings": [{"found": "3 rows are alike", "kind": "x"}]}), "mend the data: 3 rows are alike"),
        (of(audit={"warnings": [{"found": "3 rows are cut", "kind": ""}]}), "read its mistakes"),
    ],
)  # fmt: skip
def test_the_most_urgent_comes_first(result, said):
    assert next_step(result).startswith(said)


def test_too_few_rows_are_said():
    wide = of()
    wide["intervals"]["test"]["accuracy"] = [0.7, 0.95]
    assert next_step(wide) == "label more test rows: 1000 leave accuracy open from 0.700 to 0.950"
    none = of()
    none["metrics"]["test"] = None
    assert next_step(none).startswith("name test rows")
    unwatched = of()
    unwatched["metrics"]["validation"] = None
    assert next_step(unwatched).startswith("name validation rows")


# Which side of its probabilities a model is on


def measured(*bins: tuple[float, float, int]) -> dict:
    rows = sum(count for _, _, count in bins)
    error = sum(count * abs(c - a) for c, a, count in bins) / rows
    return {"bins": [list(b) for b in bins], "ece": error, "ece_by_chance": 0.0, "ece_after": None, "temperature": None}


@pytest.mark.parametrize(
    ("bins", "side", "verdict"),
    [
        ([(0.9, 0.6, 10), (0.7, 0.5, 10)], "over", "overconfident"),
        ([(0.4, 0.9, 10), (0.6, 0.95, 30)], "under", "underconfident"),
        ([(0.9, 0.6, 10), (0.5, 0.8, 10)], "both", "its probabilities are not shares"),
        ([(0.9, 0.6, 30), (0.5, 0.8, 10)], "over", "overconfident"),
        ([(0.9, 0.6, 29), (0.5, 0.8, 11)], "both", "its probabilities are not shares"),
    ],
)
def test_the_side_of_a_miscalibration_is_said(bins, side, verdict):
    of_bins = measured(*bins)
    assert calibration.side(of_bins) == side
    rows = sum(count for *_, count in bins)
    means = tuple(sum(b[i] * b[2] for b in bins) / rows for i in (0, 1))
    assert calibration.confidence_and_accuracy(of_bins) == pytest.approx(means)
    signal = miscalibration.miscalibration(of_bins)
    assert signal.light == "red"
    assert f"mean confidence {means[0]:.3f}, {means[1]:.3f} right" in signal.said
    assert overfitting.verdict([signal]).startswith(verdict)
    assert set(overfitting.report([signal])["signals"][0]) == {"name", "light", "value", "said"}


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"trained_parameters": 10, "parameters": 10}, ["All 10 parameters were trained."]),
        ({"trained_parameters": 1000, "parameters": 4000}, ["1,000 of 4,000 parameters were trained (25.00%)."]),
        (
            {"trained_parameters": 1, "parameters": 100, "lora": {"rank": 8, "modules": ["q", "v"]}},
            ["LoRA of rank 8 on q, v: 1 of 100 parameters were trained (1.00%)."],
        ),
        ({}, []),
    ],
)
def test_what_was_trained_is_named(training, said):
    assert method.findings({"method": "fine-tuning", "training": training})[1:] == said
