"""One suite over every task, family, architecture and metric of the shelves: a new file is tested as it is added."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer

from keeltune import recipe
from keeltune.data.columns import KINDS
from keeltune.data.dataset import Row
from keeltune.evaluation.bootstrap import bootstrap
from keeltune.models import loading
from keeltune.objective.predictions import IGNORED
from keeltune.tasks.architectures.architecture import Architecture
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.families.sequence_classification import SequenceClassification
from keeltune.tasks.metrics import higher_is_better, known, scale_of
from keeltune.tasks.metrics.loss import Loss
from keeltune.tasks.metrics.metric import Metric, ratio
from keeltune.tasks.task import Task
from keeltune.training.preparation.prepare import prepare
from keeltune.utils import registry
from tests.helpers.families import family_of, spec
from tests.helpers.tensors import normal

TASKS, METRICS = registry.names("tasks"), registry.names("metrics")


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_documented_and_names_its_columns(name):
    task = registry.find("tasks", name)
    assert issubclass(task, Task)
    assert not inspect.isabstract(task)
    assert "Metrics: " in (task.__doc__ or "")
    assert task.columns
    assert any(column.label for column in task.columns)
    assert len({column.name for column in task.columns}) == len(task.columns)
    assert all(column.kind in KINDS for column in task.columns)
    assert all(hasattr(transformers, auto) for auto in task.auto_models)
    assert task.generates <= (task.choices == "tokens")
    assert all(metric.answers == task.answer for metric in task.scored_by)


def test_every_task_has_small_models_and_rows_for_this_suite():
    assert all(family_of(name).architectures for name in TASKS)


# Each task with a small model of its own, as a recipe makes it


@pytest.fixture(scope="module", params=TASKS)
def material(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    given = spec(folder, request.param, family_of(request.param).architectures[0], "fine-tuning")
    return prepare(recipe.from_dict({**given, "output": "run"}, folder))


@pytest.fixture(scope="module")
def batch(material) -> dict[str, Any]:
    return material.task.collate([e for row in material.rows["test"][:4] for e in material.task.encode_scored(row)])


@pytest.fixture(scope="module")
def outputs(material, batch) -> Any:
    task, head = material.task, loading.Head(list(material.task.settings.labels))
    loaded = loading.load(
        material.source, material.auto_model, head, where="a test", field="model", reads=type(task).reads
    )
    model = loaded.model.eval()
    with torch.no_grad():
        return task.forward(model, batch)


def equal(a: Any, b: Any) -> bool:
    """Of examples: arrays of media are compared by their numbers."""
    return all(
        np.array_equal(np.asarray(x), np.asarray(other.inputs[name]))
        for one, other in zip(a, b, strict=True)
        for name, x in one.inputs.items()
    ) and [(e.key, list(e.targets), list(e.predicted), e.length) for e in a] == [
        (e.key, list(e.targets), list(e.predicted), e.length) for e in b
    ]


def test_every_task_encodes_and_collates(material):
    task, rows = material.task, material.rows["test"][:4]
    examples = [e for row in rows for e in task.encode(row)]
    assert equal(examples, [e for row in rows for e in task.encode(row)])  # pure
    batch = task.collate(examples)
    assert {"inputs", "targets", "weights", "anchored", "counts", "keys"} <= set(batch)
    assert "labels" not in batch["inputs"]
    n = len(batch["targets"])
    assert n == sum(e.predictions for e in examples) == int(batch["counts"].sum())
    assert len(batch["weights"]) == len(batch["anchored"]) == n
    assert batch["anchored"].dtype == torch.bool
    assert batch["keys"] == [e.key for e in examples] and len(set(batch["keys"])) == len(examples)
    assert {key.partition("#")[0] for key in batch["keys"]} == {row.key for row in rows}
    assert task.counts(batch)[0] == sum(e.labelled for e in examples) > 0
    assert task.counts(batch)[1] == 0  # a stream anchors rows, not a task
    if task.reads == "text" and not task.generates:
        assert [e.length for e in examples] == batch["inputs"]["attention_mask"].sum(-1).tolist()
    bare = [Row({k: v for k, v in row.fields.items() if k not in LABELS[type(task)]}, row.file, row.line, row.key)
            for row in rows]  # fmt: skip
    unlabelled = [e for row in bare for e in task.encode(row, labelled=False)]
    assert all(t == IGNORED for e in unlabelled for t in e.targets)
    assert sum(e.labelled for e in unlabelled) == 0


LABELS = {registry.find("tasks", name): {c.name for c in registry.find("tasks", name).columns if c.label}
          for name in TASKS}  # fmt: skip


def test_every_task_aligns_its_predictions_and_shares_its_cross_entropy_among_them(material, batch, outputs):
    task = material.task
    rows = task.rows(outputs, batch)
    assert len(rows) == int(batch["counts"].sum())
    log_probs = rows.log_probs(slice(None))
    loss = float(task.cross_entropy(rows, batch))
    if task.choices == "numbers":  # means, which tests/tasks/test_regression.py looks at
        assert log_probs.shape == (len(rows), 1)
        assert sum(task.losses(rows, batch)) == pytest.approx(loss, rel=1e-5)
        return
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(len(rows)))
    assert sum(task.losses(rows, batch)) == pytest.approx(loss, rel=1e-5)
    if (per_slice := task.sliced_cross_entropy(batch)) is not None:
        labelled = (batch["targets"] != IGNORED).nonzero().flatten()
        picked = log_probs[labelled, batch["targets"][labelled]]
        assert loss == pytest.approx(float(-(picked * batch["weights"][labelled]).sum()), rel=1e-5)
        assert float(per_slice(log_probs, slice(None))) == pytest.approx(loss, rel=1e-5)


LONG_TEXTS = ("cider", "bleu4", "rouge2")
"""They count n-grams that the helpers' short texts lack, and CIDEr weighs by how rare one is among the rows."""


def test_every_task_is_scored_best_by_what_is_right(material):
    task, rows = material.task, material.rows["test"]
    golds = [task.gold(row) for row in rows]
    values = [gold[0] if task.answer == "text" and not isinstance(gold, str) and gold else gold for gold in golds]
    values = ["" if value == [] and task.answer == "text" else value for value in values]
    table = task.statistics(values, golds)
    scores = {name: float(value) for name, value in task.scores(table.sum(0)).items()}
    assert list(scores) == [name for name in task.metrics if name not in Loss.names]
    for name, value in scores.items():
        best = 0.0 if name in task.lower_is_better else scale_of(name)
        if name in LONG_TEXTS:
            assert 0 < value <= best, name
        else:
            assert value == pytest.approx(best, abs=1e-6), name
    wrong = task.scores(task.statistics(values[1:] + values[:1], golds).sum(0))
    for name, value in scores.items():
        assert float(wrong[name]) >= value if name in task.lower_is_better else float(wrong[name]) <= value, name
    assert [task.row_score(value, gold) for value, gold in zip(values, golds, strict=True)] == pytest.approx(
        [task.row_score(values[0], golds[0])] * len(rows)
    )
    draws = task.scores(bootstrap(table, resamples=5))
    assert all(value.shape == (5,) for value in draws.values())


# Sequence classification, whose logits are made here


@pytest.fixture(params=[name for name in TASKS if issubclass(registry.find("tasks", name), SequenceClassification)])
def classifier(request, tiny) -> Task:
    return registry.find("tasks", request.param)(AutoTokenizer.from_pretrained(tiny("bert")), Settings(["a", "b", "c"]))


def rows_of(task: Task) -> list[Row]:
    texts = ["the film is good", "bad", "a very long and dull plot", "it was fine"]
    return [
        Row({c.name: "abcb"[i] if c.label else text for c in task.columns if c.required}, "f", i + 1, f"k{i}")
        for i, text in enumerate(texts)
    ]


def test_a_classifier_encodes_collates_and_aligns(classifier):
    task = classifier
    examples = [e for row in rows_of(task) for e in task.encode(row)]
    assert examples == [e for row in rows_of(task) for e in task.encode(row)]  # pure
    batch = task.collate(examples)
    assert {"inputs", "targets", "weights", "anchored", "keys"} <= set(batch)
    assert "labels" not in batch["inputs"]
    n = len(batch["targets"])
    assert len(batch["weights"]) == len(batch["anchored"]) == n
    assert batch["anchored"].dtype == torch.bool
    assert batch["keys"] == [e.key for e in examples]
    assert [e.length for e in examples] == batch["inputs"]["attention_mask"].sum(-1).tolist()
    unlabelled = task.collate([e for row in rows_of(task) for e in task.encode(row, labelled=False)])
    assert (unlabelled["targets"] == IGNORED).all()
    assert all(torch.equal(unlabelled["inputs"][k], v) for k, v in batch["inputs"].items())


def test_a_classifiers_cross_entropy_is_a_sum_that_its_predictions_share(classifier):
    task = classifier
    batch = task.collate([e for row in rows_of(task) for e in task.encode(row)])
    logits = normal(4, 3, seed=4)
    rows = task.rows(type("Outputs", (), {"logits": logits}), batch)
    loss = task.cross_entropy(rows, batch).item()
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, batch["targets"], reduction="sum").item())
    predictions = task.decode(rows, batch)
    assert sum(p.loss for p in predictions) == pytest.approx(loss)
    assert sum(p.count for p in predictions) == 4
    shuffled = task.rows(type("Outputs", (), {"logits": logits[:, [2, 0, 1]]}), batch, order=[1, 2, 0])
    assert torch.equal(shuffled.log_probs(slice(None)), rows.log_probs(slice(None)))


def test_a_classifiers_scores_are_1_for_the_gold_and_sum_over_rows(classifier):
    task = classifier
    golds = [task.gold(row) for row in rows_of(task)]
    statistics = task.statistics(golds, golds)
    scores = task.scores(statistics.sum(0))
    assert tuple(scores) == task.metrics
    assert all(float(value) == pytest.approx(1.0) for value in scores.values())
    assert [task.row_score(gold, gold) for gold in golds] == [1.0] * 4
    resampled = np.stack([statistics.sum(0), statistics[:2].sum(0)])
    assert all(len(value) == 2 for value in task.scores(resampled).values())
    assert "by_label" in task.details(statistics.sum(0))


# Families and architectures


@pytest.mark.parametrize("name", registry.names("families"))
def test_a_family_is_the_one_class_of_its_file(name):
    family = registry.find("families", name)
    assert family.__name__ == name.title().replace("-", "")
    assert issubclass(family, Task) and family.__doc__
    assert family.auto_models and family.answer


@pytest.mark.parametrize("name", registry.names("architectures"))
def test_an_architecture_says_how_it_writes(name):
    architecture = registry.find("architectures", name)
    assert issubclass(architecture, Architecture) and not inspect.isabstract(architecture)
    assert "N = " in (architecture.__doc__ or "") and "P(" in (architecture.__doc__ or "")
    assert not (architecture.reads_prompt and architecture.framewise)
    for method in ("sample", "answered"):
        defined = getattr(architecture, method) is not getattr(Architecture, method)
        assert defined == (architecture.samples is Architecture.samples)


# Metrics

GOLDS: dict[str, list[Any]] = {
    "label": ["a", "b", "c", "b"],
    "tags": [["B-ARG0", "B-V", "O", "B-ARG1"], ["B-V", "B-ARG1", "I-ARG1", "O"], ["O", "O", "B-V", "B-ARG0"],
             ["B-ARG0", "I-ARG0", "B-V", "O"]],
    "text": ["the cat sat on the old mat", "two dogs bark at one red car", "rain falls over the small town",
             "she reads long books every night"],
    "loss": [1.0, 2.0, 3.0, 4.0],
    "numbers": [1.0, 4.5, 2.0, 3.0],
}  # fmt: skip


def metric_and_rows(name: str) -> tuple[Metric, list[Any], list[Any]]:
    """A metric with right answers, and with wrong ones: each row's the next row's."""
    metric = registry.find("metrics", name)
    names = {"tags": ["O", *(f"{side}-{kind}" for kind in ("ARG0", "ARG1", "V") for side in "BI")], "numbers": ["n"]}
    if metric.answers == "probabilities":
        golds = GOLDS["label"]
        sure = [{name: float(name == gold) for name in "abc"} for gold in golds]
        return metric(Settings(["a", "b", "c"])), sure, sure[1:] + sure[:1]
    golds = GOLDS[metric.answers]
    if metric.answers == "loss":
        return metric(Settings()), [(0.0, 2.0)] * 4, [(g, 2.0) for g in golds]
    return metric(Settings(names.get(metric.answers, ["a", "b", "c"]))), golds, golds[1:] + golds[:1]


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_what_it_is(name):
    metric = registry.find("metrics", name)
    assert issubclass(metric, Metric) and not inspect.isabstract(metric)
    assert metric.names and metric.library and "tatistics" in (metric.__doc__ or "")
    assert metric.__name__ == name.title().replace("-", "")
    for score in metric.names:
        assert higher_is_better(score) == metric.higher_is_better and scale_of(score) == metric.scale


@pytest.mark.parametrize("name", METRICS)
def test_identity_scores_best_and_rows_sum_to_the_score(name):
    metric, right, wrong = metric_and_rows(name)
    golds = GOLDS["label"] if metric.answers == "probabilities" else right
    table, other = metric.statistics(right, golds), metric.statistics(wrong, golds)
    assert table.shape == other.shape == (len(golds), metric.width) and table.dtype == np.float64
    assert metric.statistics([], []).shape == (0, metric.width)
    best, worse = metric.scores(table.sum(0)), metric.scores(other.sum(0))
    assert tuple(best) == tuple(worse) == metric.names
    for score in metric.names:
        perfect = metric.scale if metric.higher_is_better else 1.0 if score == "perplexity" else 0.0
        assert float(best[score]) == pytest.approx(perfect, abs=1e-6)
        assert (float(worse[score]) < float(best[score])) == metric.higher_is_better
    # sums of some rows, drawn with replacement, are the scores of those rows
    draws = np.array([[2.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    several = metric.scores(draws @ other)
    for score in metric.names:
        assert several[score].shape == (2,)
        assert float(several[score][1]) == pytest.approx(float(worse[score]), rel=1e-12)
        repeated = np.repeat(other, [2, 0, 1, 1], axis=0).sum(0)
        assert float(several[score][0]) == pytest.approx(float(metric.scores(repeated)[score]), rel=1e-12)


@pytest.mark.parametrize("name", [name for name in METRICS if registry.find("metrics", name).scores_single_rows])
def test_a_rows_own_score_is_larger_the_better_it_is(name):
    metric, golds, wrong = metric_and_rows(name)
    if metric.answers == "loss":
        with pytest.raises(NotImplementedError):
            metric.row_score(1.0, 1.0)
        return
    for value, gold in zip(wrong, golds, strict=True):
        right = metric.row_score(gold, gold)
        assert right == pytest.approx(metric.scale if metric.higher_is_better else 1.0, abs=1e-6)
        assert 0 <= metric.row_score(value, gold) < right


def test_metrics_of_one_name_agree_on_its_direction_and_scale():
    said: dict[str, set] = {}
    for metric in known():
        for name in metric.names:
            said.setdefault(name, set()).add((metric.higher_is_better, metric.scale))
    assert {name for name, values in said.items() if len(values) > 1} == set()


def test_the_contracts_own_example_is_a_metric():
    text = inspect.cleandoc(inspect.getmodule(Metric).__doc__)
    lines = [line for line in text.splitlines() if line.startswith("    ") or not line]
    code = "\n".join(lines[lines.index("    class Length(Metric):") :])
    names: dict[str, Any] = {"np": np, "Metric": Metric, "ratio": ratio}
    exec(textwrap.dedent(code), names)
    metric = names["Length"]()
    table = metric.statistics(["a b", "a", "abc"], ["b a", "b", "ab"])
    assert table.shape == (3, metric.width)
    assert float(metric.scores(table.sum(0))["length"]) == pytest.approx(2 / 3)
    assert metric.row_score("abc", "ab") == 0.0


def test_several_right_texts_count_by_the_best_of_them():
    for name in METRICS:
        metric, golds, wrong = metric_and_rows(name)
        if metric.answers != "text" or name == "cider":
            continue
        several = metric.scores(metric.statistics(golds, [[w, g] for w, g in zip(wrong, golds, strict=True)]).sum(0))
        alone = metric.scores(metric.statistics(golds, golds).sum(0))
        assert {k: float(v) for k, v in several.items()} == pytest.approx({k: float(v) for k, v in alone.items()}), name
