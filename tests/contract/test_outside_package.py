"""A task with a family and metrics of its own, and a file format, all in a package outside this one, from a recipe."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import keeltune as kt
from keeltune import recipe
from keeltune.data import dataset
from keeltune.runs import comparison, inference
from keeltune.training.preparation.prepare import prepare
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers.models import save_tiny
from tests.helpers.runs import reviews

FAMILY = '''
from keeltune.data.columns import Column
from keeltune.objective.predictions import IGNORED, Dense, nll
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.padding import pad_tokens
from keeltune.tasks.task import Task


class Grading(Task):
    """One grade of an ordered scale for a text: N = B, C = grades."""

    answer = "grade"
    auto_models = ("AutoModelForSequenceClassification",)

    @classmethod
    def labels_of(cls, row):
        return [row.fields["label"]] if "label" in row.fields else []

    def encode(self, row, *, labelled=True):
        inputs = dict(self.processor(row.fields["text"], truncation=True, max_length=self.settings.max_length))
        target = list(self.settings.labels).index(row.fields["label"]) if labelled else IGNORED
        return [Example(inputs, [target], [1.0], row.key, len(inputs["input_ids"]))]

    def pad(self, inputs):
        return pad_tokens(self.processor, inputs)

    def rows(self, outputs, batch, order=None):
        return Dense(outputs.logits if order is None else outputs.logits[:, list(order)])

    def decode(self, rows, batch):
        losses = nll(rows, batch["targets"], batch["weights"]).tolist()
        best = rows.log_probs(slice(None)).argmax(-1).tolist()
        counts = (batch["targets"] != IGNORED).tolist()
        names = list(self.settings.labels)
        return [Prediction(names[i], None, loss, float(n)) for i, loss, n in zip(best, losses, counts, strict=True)]

    def gold(self, row):
        return row.fields["label"]
'''

OWN_TASK = "garden.stars:Stars"

STARS = '''
from keeltune.data.columns import Column
from garden.grading import Grading
from garden.metrics import Agreement


class Stars(Grading):
    """Grades of reviews. Metrics: agreement."""

    columns = (Column("text", "text"), Column("label", "label", label=True))
    scored_by = (Agreement,)
'''

METRICS = '''
import numpy as np
from keeltune.tasks.metrics.metric import Metric, ratio


class Agreement(Metric):
    """The share of grades that are right. Statistics a row: 1 if it is, and 1."""

    names = ("agreement",)
    answers = "grade"

    @property
    def width(self):
        return 2

    def statistics(self, values, golds):
        return np.array([[v == g, 1.0] for v, g in zip(values, golds, strict=True)], dtype=float).reshape(-1, 2)

    def scores(self, sums):
        return {self.names[0]: ratio(sums[..., 0], sums[..., 1])}


class Misgraded(Metric):
    """Wrong grades of a hundred. Statistics a row: 1 if it is wrong, and 1."""

    names = ("misgraded",)
    answers = "grade"
    higher_is_better = False
    scale = 100.0

    @property
    def width(self):
        return 2

    def statistics(self, values, golds):
        return np.array([[v != g, 1.0] for v, g in zip(values, golds, strict=True)], dtype=float).reshape(-1, 2)

    def scores(self, sums):
        return {"misgraded": 100 * ratio(sums[..., 0], sums[..., 1])}


class Twin(Agreement):
    """One more of the same name."""


not_a_metric = len
'''

FORMAT = '''
from keeltune.data.file_formats.file_format import FileFormat, text_lines


class Piped(FileFormat):
    """label | text, a line each."""

    endings = (".piped",)
    cells_are_text = True

    def records(self, data, log):
        for line, text, sound in text_lines(data, log):
            label, bar, rest = text.rstrip("\\n").partition("|")
            if not bar:
                log.row(line, "no bar", repr(text), "label|text", "correct the line")
            elif sound:
                yield line, {"label": label, "text": rest}
'''


@pytest.fixture
def garden(tmp_path, monkeypatch) -> Path:
    package = tmp_path / "garden"
    package.mkdir()
    for name, text in (
        ("__init__", ""),
        ("grading", FAMILY),
        ("stars", STARS),
        ("metrics", METRICS),
        ("piped", FORMAT),
    ):
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = reviews(40, seed=1)
    for name, part in (("train", rows[:24]), ("validation", rows[24:32]), ("test", rows[32:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    save_tiny(tmp_path / "student")
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "garden"]:
        del sys.modules[name]


def spec(**evaluation) -> dict:
    return {
        "task": OWN_TASK,
        "method": "cross-domain",
        "objective": {"weight": 0.3},
        "model": "student",
        "data": {"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"},
        "training": {"max_steps": 6, "batch_size": 4, "learning_rate": 1e-2, "precision": "fp32"},
        "evaluation": {"every": 3, **evaluation},
        "output": "run",
    }


def test_a_task_a_family_and_metrics_from_outside_train_and_are_reported(garden):
    given = spec(metrics=["garden.metrics:Misgraded"], metric="misgraded")
    run = kt.train(recipe.from_dict(given, garden), display=Display(quiet=True))
    assert run.result["status"] == "completed"
    for split in ("validation", "test"):
        scores, intervals = run.result["metrics"][split], run.result["intervals"][split]
        assert list(scores)[:2] == ["misgraded", "agreement"]  # what chooses comes first
        assert scores["misgraded"] == pytest.approx(100 * (1 - scores["agreement"]))
        assert intervals["misgraded"][0] <= scores["misgraded"] <= intervals["misgraded"][1]
        lines = (run.folder / "predictions" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        right = [line["prediction"] == line["gold"] for line in map(json.loads, lines)]
        assert scores["agreement"] == pytest.approx(sum(right) / len(right))
    for page in ("report.html", "model/README.md"):
        text = (run.folder / page).read_text(encoding="utf-8")
        assert "misgraded" in text and "agreement" in text, page
    # scored again from its folder, which imports no metric that only the folder names
    with pytest.raises(UserError, match=f"code of another package(.|\\n)*--task {OWN_TASK}"):
        inference.evaluate(run.folder, garden / "test.jsonl", display=Display(quiet=True))
    with pytest.raises(UserError, match="code of another package"):
        comparison.compare([run.folder, run.folder])
    again = inference.evaluate(run.folder, garden / "test.jsonl", task=OWN_TASK, display=Display(quiet=True))
    assert again["metrics"]["agreement"] == pytest.approx(run.result["metrics"]["test"]["agreement"])
    assert "misgraded" not in again["metrics"]
    assert comparison.compare([run.folder, run.folder], task=OWN_TASK)["metric"] == "agreement"


def test_the_best_weights_are_those_of_the_metric_that_the_recipe_names(garden):
    for metric, better in (("loss", min), ("misgraded", min), ("agreement", max)):
        given = spec(metrics=["garden.metrics:Misgraded"], metric=metric) | {"output": metric}
        given["training"] |= {"max_steps": 12, "seed": 3}
        run = kt.train(recipe.from_dict(given, garden), display=Display(quiet=True))
        log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        measured = [entry[f"eval_{metric}"] for entry in log if f"eval_{metric}" in entry]
        assert len(measured) > 1
        assert run.result["metrics"]["validation"][metric] == pytest.approx(better(measured), rel=1e-5)
        assert next(iter(run.result["metrics"]["validation"])) == metric


def test_a_file_format_from_outside_is_read_for_training(garden):
    for name in ("train", "validation", "test"):
        rows = map(json.loads, (garden / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
        text = "".join(f"{row['label']}|{row['text']}\n" for row in rows)
        (garden / f"{name}.piped").write_text(text, encoding="utf-8")
    files = {name: f"{name}.piped" for name in ("train", "validation", "test")}
    run = kt.train(recipe.from_dict(spec() | {"data": {**files, "format": "garden.piped:Piped"}}, garden),
                   display=Display(quiet=True))  # fmt: skip
    rows = prepare(recipe.from_dict(spec() | {"output": "other"}, garden)).rows
    for split in files:
        assert run.result["data"][split] == {"rows": len(rows[split]), "fingerprint": dataset.fingerprint(rows[split])}
    assert "format: garden.piped:Piped" in (run.folder / "recipe.yaml").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=f"code of another package(.|\\n)*--task {OWN_TASK}"):
        inference.evaluate(run.folder, garden / "test.jsonl", display=Display(quiet=True))
    with pytest.raises(UserError, match="code of another package"):
        comparison.compare([run.folder, run.folder])
    again = inference.evaluate(run.folder, garden / "test.jsonl", task=OWN_TASK, display=Display(quiet=True))
    assert again["metrics"]["agreement"] == pytest.approx(run.result["metrics"]["test"]["agreement"])
    (garden / "train.piped").write_text("positive|a good film\nno label here\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.piped:2(.|\n)*label\|text"):
        prepare(recipe.from_dict(spec() | {"data": {**files, "format": "garden.piped:Piped"}}, garden))


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("  format: nowhere:Mine", ("7:11 · data.format", "no module nowhere")),
        ("objective: {divergence: {name: 'nowhere:near', a: 1}}", ("objective.divergence.name", "no module nowhere")),
        ("objective: {divergence: 'nowhere:near'}", ("objective.divergence.name", "no module nowhere")),
    ],
)
def test_code_from_outside_is_looked_for_before_training_and_by_no_recipe_that_is_only_read(tmp_path, line, parts):
    """A run folder's recipe is read by `evaluate`, `compare` and `runs`, which must execute nothing of it."""
    text = "task: sentiment-analysis\nmethod: distillation\nmodel: student\nreference: teacher\n"
    text += "output: out\ndata:\n"
    text += f"{line}\n  train: rows.jsonl\n" if line.startswith(" ") else f"  train: rows.jsonl\n{line}\n"
    loaded = recipe.parse(text, folder=tmp_path)
    with pytest.raises(UserError) as refused:
        prepare(loaded)
    assert all(part in str(refused.value) for part in parts)


@pytest.mark.parametrize(
    ("evaluation", "field", "found", "expected"),
    [
        ({"metrics": ["garden.metrics:Nothing"]}, "evaluation.metrics", "garden.metrics:Nothing", "a metric ("),
        ({"metrics": ["garden.metrics:not_a_metric"]}, "evaluation.metrics", "not_a_metric", "a metric ("),
        ({"metrics": ["rogue"]}, "evaluation.metrics", "rogue", "my_package.my_module:Name"),
        ({"metrics": ["rouge"]}, "evaluation.metrics", "rouge, of text", "metrics of grade"),
        ({"metrics": ["garden.metrics:Twin"]}, "evaluation.metrics", "agreement there is already", "another name"),
        ({"metric": "agrement"}, "evaluation.metric", '"agrement"', "one of: agreement, loss, perplexity"),
    ],
)
def test_a_metric_that_is_none_of_the_tasks_is_refused_with_the_list(garden, evaluation, field, found, expected):
    with pytest.raises(UserError) as caught:
        prepare(recipe.from_dict(spec(**evaluation), garden))
    (problem,) = caught.value.problems
    assert problem.field == field
    assert found in problem.found and expected in problem.expected
    assert problem.fix
