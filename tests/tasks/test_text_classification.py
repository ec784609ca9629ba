"""Classification: scikit-learn's numbers, the sigmoid as a softmax of two, class weights, and texts as tensors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, precision_recall_fscore_support
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.functional import cross_entropy as torch_cross_entropy
from transformers import AutoTokenizer

from keeltune import recipe
from keeltune.data.dataset import Row
from keeltune.data.labels import class_weights_of
from keeltune.evaluation.bootstrap import bootstrap
from keeltune.evaluation.scores import score
from keeltune.objective.predictions import IGNORED
from keeltune.recipe import fields
from keeltune.tasks.common.example import Prediction
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.sentiment_analysis import SentimentAnalysis
from keeltune.tasks.text_classification import TextClassification
from keeltune.training.preparation import row_encoding
from keeltune.utils.errors import Problem, UserError
from tests.helpers.models import WORDS, word_tokenizer

TEXTS = ["the film is good", "bad", "a very long and dull plot", "it was fine"]


def names_of(count: int) -> list[str]:
    return [f"name {i:03}" for i in range(count)]


def make(labels, *, cls=TextClassification, tokenizer=None, companions=None, **settings) -> TextClassification:
    return cls(tokenizer or word_tokenizer(), Settings(labels, **settings), companions)


def row(text: str, label=None, key: str = "k", **others) -> Row:
    return Row({"text": text, **({} if label is None else {"label": label}), **others}, "f", 1, key)


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def single_cases() -> dict[str, tuple[list[str], list[str], list[str]]]:
    random = np.random.default_rng(0)

    def drawn(count: int, rows: int) -> tuple[list[str], list[str], list[str]]:
        names = names_of(count)
        return names, list(random.choice(names, rows)), list(random.choice(names, rows))

    four = names_of(4)
    return {
        "2 labels": drawn(2, 60),
        "4 labels": drawn(4, 200),
        "151 labels, some absent": drawn(151, 120),
        "a label nobody names": (four, list(random.choice(four[:3], 40)), list(random.choice(four[:3], 40))),
        "a label only predicted": (four, ["name 000", "name 001"] * 5, ["name 000", "name 003"] * 5),
        "a label only gold": (four, ["name 000", "name 002"] * 5, ["name 000", "name 001"] * 5),
        "constant predictions": (four, list(random.choice(four, 40)), [four[1]] * 40),
        "constant gold": (four, [four[1]] * 40, list(random.choice(four, 40))),
        "all wrong": (four[:2], [four[0]] * 5, [four[1]] * 5),
        "all right, one label": (four[:2], [four[0]] * 5, [four[0]] * 5),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn's, of labels that do not occur
@pytest.mark.parametrize("case", single_cases())
def test_single_label_metrics_are_scikit_learns(case):
    names, gold, chosen = single_cases()[case]
    task = make(names)
    sums = task.statistics(chosen, gold).sum(0)
    found = {name: float(value) for name, value in task.scores(sums).items()}
    assert found == pytest.approx(
        {
            "accuracy": accuracy_score(gold, chosen),
            "macro_f1": f1_score(gold, chosen, average="macro", zero_division=0),
            "mcc": matthews_corrcoef(gold, chosen),
        },
        abs=1e-12,
    )
    assert list(make(names, cls=SentimentAnalysis).scores(sums)) == ["accuracy", "macro_f1"]
    theirs = precision_recall_fscore_support(gold, chosen, labels=names, zero_division=0)
    by_label = task.details(sums)["by_label"]
    assert list(by_label) == names
    for name, values in zip(names, zip(*theirs, strict=True), strict=True):
        ours = by_label[name]
        assert (ours["precision"], ours["recall"], ours["f1"], ours["rows"]) == pytest.approx(values, abs=1e-12)


def sets(names: list[str], rows: int, share: float, seed: int) -> list[list[str]]:
    table = np.random.default_rng(seed).random((rows, len(names))) < share
    return [[name for name, on in zip(names, line, strict=True) if on] for line in table]


def indicators(names: list[str], values: list[list[str]]) -> np.ndarray:
    return np.array([[int(name in value) for name in names] for value in values])


def multi_cases() -> dict[str, tuple[list[str], list[list[str]], list[list[str]]]]:
    names = names_of(5)
    gold = sets(names, 60, 0.3, 1)
    return {
        "drawn": (names, gold, sets(names, 60, 0.4, 2)),
        "nothing predicted": (names, gold, [[]] * 60),
        "a label nobody names": (names, sets(names[:4], 60, 0.3, 3), sets(names[:4], 60, 0.3, 4)),
        "everything right": (names, gold, gold),
        "nothing gold": (names, [[]] * 60, sets(names, 60, 0.4, 5)),
        "28 labels": (names_of(28), sets(names_of(28), 40, 0.05, 6), sets(names_of(28), 40, 0.05, 7)),
    }


@pytest.mark.parametrize("case", multi_cases())
def test_multi_label_metrics_are_scikit_learns(case):
    names, gold, chosen = multi_cases()[case]
    task = make(names, multi_label=True)
    sums = task.statistics(chosen, gold).sum(0)
    y, p = indicators(names, gold), indicators(names, chosen)
    found = {name: float(value) for name, value in task.scores(sums).items()}
    assert list(found) == ["micro_f1", "macro_f1", "accuracy"]
    assert found == pytest.approx(
        {
            "micro_f1": f1_score(y, p, average="micro", zero_division=0),
            "macro_f1": f1_score(y, p, average="macro", zero_division=0),
            "accuracy": accuracy_score(y, p),
        },
        abs=1e-12,
    )
    theirs = precision_recall_fscore_support(y, p, zero_division=0)
    for name, values in zip(names, zip(*theirs, strict=True), strict=True):
        ours = task.details(sums)["by_label"][name]
        assert (ours["precision"], ours["recall"], ours["f1"], ours["rows"]) == pytest.approx(values, abs=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("multi", [False, True])
def test_a_resampled_sum_is_the_metric_of_the_resampled_rows(multi):
    names, gold, chosen = (multi_cases() if multi else single_cases())["drawn" if multi else "4 labels"]
    task = make(names, multi_label=multi)
    rows, resamples = len(gold), 20
    scores = task.scores(bootstrap(task.statistics(chosen, gold), resamples=resamples, seed=3))
    drawn = np.random.default_rng(3).multinomial(rows, np.full(rows, 1 / rows), size=resamples)
    for i, times in enumerate(drawn):
        places = np.repeat(np.arange(rows), times)
        assert len(places) == rows
        if multi:
            y, p = (indicators(names, [values[j] for j in places]) for values in (gold, chosen))
        else:
            y, p = ([values[j] for j in places] for values in (gold, chosen))
        assert scores["accuracy"][i] == pytest.approx(accuracy_score(y, p), abs=1e-12)
        assert scores["macro_f1"][i] == pytest.approx(f1_score(y, p, average="macro", zero_division=0), abs=1e-12)
        if multi:
            assert scores["micro_f1"][i] == pytest.approx(f1_score(y, p, average="micro", zero_division=0), abs=1e-12)
        else:
            assert scores["mcc"][i] == pytest.approx(matthews_corrcoef(y, p), abs=1e-12)


def test_a_rows_own_score():
    assert [make(["a", "b"]).row_score(x, "a") for x in "ab"] == [1.0, 0.0]
    several = make(names_of(3), multi_label=True)
    assert several.row_score([], []) == 1.0
    assert several.row_score(["name 000"], []) == 0.0
    assert several.row_score(["name 000", "name 001"], ["name 001"]) == pytest.approx(2 / 3)


# Encoding and batches


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_what_the_tokenizer_pads(side):
    tokenizer = word_tokenizer()
    tokenizer.padding_side = side
    task = make(["a", "b"], tokenizer=tokenizer)
    batch = task.collate([e for text in TEXTS for e in task.encode(row(text, "a"))])
    theirs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert batch["inputs"].keys() == theirs.keys()
    assert all(torch.equal(batch["inputs"][name], value) for name, value in theirs.items())
    assert {"label", "labels"}.isdisjoint(batch["inputs"])


def test_a_pair_is_one_input_with_both_texts(minilm):
    for tokenizer in (word_tokenizer(), AutoTokenizer.from_pretrained(minilm)):
        task = make(["a", "b"], tokenizer=tokenizer)
        (example,) = task.encode(row(TEXTS[0], "a", text_pair=TEXTS[2]))
        assert dict(example.inputs) == dict(tokenizer(TEXTS[0], TEXTS[2]))
        assert example.length == len(example.inputs["input_ids"])
    assert set(example.inputs["token_type_ids"]) == {0, 1}


def test_a_text_that_is_cut_says_so():
    task = make(["a", "b"], max_length=6)
    fits, cut = (task.encode(row(" ".join(WORDS[:n]), "a"))[0] for n in (4, 5))
    assert (fits.truncated, fits.length) == (False, 6)
    assert (cut.truncated, cut.length) == (True, 6)
    assert cut.inputs["input_ids"] == fits.inputs["input_ids"]
    pair = task.encode(row("the film", "a", text_pair="is very good"))[0]
    assert (pair.truncated, pair.length) == (True, 6)


def test_targets_follow_the_order_of_the_labels():
    task = make(["z", "a", "m"])
    examples = [task.encode(row(t, x, key=x))[0] for t, x in zip(TEXTS, "amz", strict=False)]
    batch = task.collate(examples)
    assert batch["targets"].tolist() == [1, 2, 0]
    assert batch["keys"] == ["a", "m", "z"]
    assert task.collate([task.encode(row(TEXTS[0]), labelled=False)[0]])["targets"].tolist() == [IGNORED]


def test_companions_give_a_reference_ids_of_its_own():
    theirs = word_tokenizer(words=WORDS[::-1])
    task = make(["a", "b"], companions={"reference_0": make(["a", "b"], tokenizer=theirs)})
    rows = [row(text, "a") for text in TEXTS]
    examples = [e for r in rows for e in row_encoding.encode_row(task, r, "train")]
    batch = task.collate(examples)
    expected = theirs(TEXTS, padding=True, return_tensors="pt")
    assert all(torch.equal(batch["reference_0"]["inputs"][name], value) for name, value in expected.items())
    assert not torch.equal(batch["reference_0"]["inputs"]["input_ids"], batch["inputs"]["input_ids"])
    plain = make(["a", "b"])
    without = plain.collate([e for r in rows for e in plain.encode(r)])["inputs"]
    assert all(torch.equal(batch["inputs"][name], value) for name, value in without.items())


# Loss


def batch_of(task, labels) -> dict:
    return task.collate([e for t, x in zip(TEXTS, labels, strict=True) for e in task.encode(row(t, x))])


def test_cross_entropy_is_torchs_sum():
    task = make(names_of(3))
    batch, z = batch_of(task, ["name 002", "name 000", "name 001", "name 001"]), logits(4, 3)
    rows = task.rows(SimpleNamespace(logits=z), batch)
    expected = torch_cross_entropy(z, torch.tensor([2, 0, 1, 1]), reduction="sum")
    torch.testing.assert_close(task.cross_entropy(rows, batch), expected, rtol=1e-12, atol=0)


def test_multi_label_is_a_sigmoid_for_each_label():
    names = names_of(3)
    task = make(names, multi_label=True)
    labels = [["name 002", "name 000"], [], ["name 001"], names]
    batch, z = batch_of(task, labels), logits(4, 3, seed=1)
    rows = task.rows(SimpleNamespace(logits=z), batch)
    assert len(rows) == len(batch["targets"]) == len(batch["anchored"]) == 12
    y = torch.tensor(indicators(names, labels))
    assert batch["targets"].tolist() == y.flatten().tolist()
    expected = binary_cross_entropy_with_logits(z, y.double(), reduction="sum")
    torch.testing.assert_close(task.cross_entropy(rows, batch), expected, rtol=1e-12, atol=0)
    predictions = task.decode(rows, batch)
    for prediction, line, label in zip(predictions, z, labels, strict=True):
        assert list(prediction.probabilities.values()) == pytest.approx(line.sigmoid().tolist(), rel=1e-12)
        assert prediction.value == [name for name, p in zip(names, line, strict=True) if p > 0]
        of_row = torch.tensor([float(name in label) for name in names]).double()
        loss = binary_cross_entropy_with_logits(line, of_row, reduction="sum").item()
        assert (prediction.loss, prediction.count) == pytest.approx((loss, 3))
    assert task.gold(row(TEXTS[0], ["name 002", "name 000"])) == ["name 000", "name 002"]


def test_probabilities_and_choice_of_a_single_label():
    task = make(names_of(3))
    batch, z = batch_of(task, ["name 002"] * 4), logits(4, 3, seed=2)
    for prediction, line in zip(task.decode(task.rows(SimpleNamespace(logits=z), batch), batch), z, strict=True):
        assert list(prediction.probabilities) == names_of(3)
        assert list(prediction.probabilities.values()) == pytest.approx(line.softmax(-1).tolist(), rel=1e-12)
        assert prediction.value == f"name 00{int(line.argmax())}"


def test_class_weights_multiply_ce_and_are_its_count():
    weights = {"name 000": 0.5, "name 002": 3.0}  # name 001: 1
    task = make(names_of(3), class_weights=weights)
    batch, z = batch_of(task, ["name 002", "name 000", "name 001", "name 001"]), logits(4, 3, seed=3)
    rows = task.rows(SimpleNamespace(logits=z), batch)
    w = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    expected = torch_cross_entropy(z, torch.tensor([2, 0, 1, 1]), weight=w, reduction="sum")
    torch.testing.assert_close(task.cross_entropy(rows, batch), expected, rtol=1e-12, atol=0)
    predictions = task.decode(rows, batch)
    assert sum(p.count for p in predictions) == pytest.approx(5.5)
    mean = torch_cross_entropy(z, torch.tensor([2, 0, 1, 1]), weight=w).item()  # torch divides by Σ w as well
    labels = ["name 002", "name 000", "name 001", "name 001"]
    assert score(task, predictions, [row("", x) for x in labels]).metrics["loss"] == pytest.approx(mean)


def test_class_weights_of_several_labels_are_bces():
    task = make(names_of(3), class_weights={"name 001": 4.0}, multi_label=True)
    labels = [["name 001"], [], ["name 000", "name 001"], ["name 002"]]
    batch, z = batch_of(task, labels), logits(4, 3, seed=4)
    y, w = torch.tensor(indicators(names_of(3), labels)).double(), torch.tensor([1.0, 4.0, 1.0]).double()
    rows = task.rows(SimpleNamespace(logits=z), batch)
    expected = binary_cross_entropy_with_logits(z, y, weight=w, reduction="sum")
    torch.testing.assert_close(task.cross_entropy(rows, batch), expected, rtol=1e-12, atol=0)
    assert sum(p.count for p in task.decode(rows, batch)) == pytest.approx(4 * 6)


def with_weights(weights, tmp_path) -> fields.Recipe:
    return recipe.from_dict(
        {"task": "text-classification", "method": "fine-tuning", "model": "m", "output": "out",
         "data": {"train": "t.jsonl", "class_weights": weights}}, tmp_path
    )  # fmt: skip


def test_balanced_weights_are_scikit_learns(tmp_path):
    labels = ["b"] * 7 + ["a"] * 2 + ["c"]
    problems: list[Problem] = []
    found = class_weights_of(
        with_weights("balanced", tmp_path), TextClassification, [row("t", x) for x in labels], ["c", "b", "a"], problems
    )
    expected = compute_class_weight("balanced", classes=np.array(["c", "b", "a"]), y=labels)
    assert found == pytest.approx(dict(zip(["c", "b", "a"], expected, strict=True)), rel=1e-12)
    assert not problems


def test_a_weight_of_an_unknown_label_is_named(tmp_path):
    problems: list[Problem] = []
    class_weights_of(
        with_weights({"postive": 2.0}, tmp_path), TextClassification, [], ["negative", "positive"], problems
    )
    assert 'did you mean "positive"' in str(UserError(problems))


@pytest.mark.parametrize("multi", [False, True])
def test_another_order_of_the_labels_is_undone(multi):
    task = make(names_of(4), multi_label=multi)
    labels = [["name 001"]] * 4 if multi else ["name 001"] * 4
    batch, z, order = batch_of(task, labels), logits(4, 4, seed=5), [2, 0, 3, 1]
    theirs = torch.empty_like(z)
    theirs[:, order] = z  # our label i lies at order[i] there
    ours = task.rows(SimpleNamespace(logits=z), batch).log_probs(slice(None))
    assert torch.equal(task.rows(SimpleNamespace(logits=theirs), batch, order).log_probs(slice(None)), ours)


def test_unlabelled_rows_cost_and_count_nothing():
    task = make(names_of(3), class_weights={"name 000": 7.0})
    batch = task.collate([task.encode(row(t), labelled=False)[0] for t in TEXTS])
    rows = task.rows(SimpleNamespace(logits=logits(4, 3)), batch)
    assert task.cross_entropy(rows, batch).item() == 0
    assert all(isinstance(p, Prediction) and (p.loss, p.count) == (0, 0) for p in task.decode(rows, batch))
