"""Run: pytest tests/data/test_audit.py"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from keeltune.data.audit import audit
from keeltune.data.columns import Column
from keeltune.data.dataset import Row, row_key
from keeltune.data.labels import names_of_data
from keeltune.data.reading import read
from keeltune.data.row_labels import apply_label_map
from keeltune.data.row_problems import RowProblem, is_row_problem
from keeltune.data.sources import DataSource
from keeltune.utils.errors import Problem

COLUMNS = [Column("text"), Column("text_pair", required=False), Column("label", "label", label=True)]
INPUTS = ["text", "text_pair"]


def rows(*labels, texts: list[str] | None = None, file: str = "train.jsonl") -> list[Row]:
    """One row for each label, with different texts."""
    texts = texts or [f"{file} {i}" for i in range(len(labels))]
    fields = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    return [Row(f, file, line, row_key(f, [*INPUTS, "label"])) for line, f in enumerate(fields, 1)]


def names(train: list[Row], given=None, head=None, multi_label: bool = False):
    return names_of_data(train, listed=given, head=head, multi_label=multi_label)


def warned(problems: list[Problem]) -> dict[str, str]:
    assert all(p.severity == "warning" and not is_row_problem(p) for p in problems), problems
    return {p.kind: str(p) for p in problems}


# --------------------------------------------------------------------------------------------------------- label names


def test_names_of_the_training_rows_sorted():
    assert names(rows("pos", "neg", "pos")) == (["neg", "pos"], [], [])


def test_whole_numbers_sort_by_value():
    assert names(rows("10", "9", "1"))[0] == ["1", "9", "10"]
    assert names(rows("10", "9", "ten"))[0] == ["10", "9", "ten"]


def test_trained_head_wins_where_it_covers():
    assert names(rows("pos", "neg"), head=["pos", "neg"]) == (["pos", "neg"], [], [])
    assert names(rows("pos"), given=["neg", "pos"], head=["pos", "other", "neg"])[0] == ["pos", "other", "neg"]


def test_a_label_near_a_name_of_the_head_may_be_a_class_of_its_own():
    train = rows(*["entailment", "not_entailment"] * 20)
    assert names(train, head=["entailment", "neutral", "contradiction"])[0] == ["entailment", "not_entailment"]


def test_head_that_does_not_cover_gives_way_with_a_note():
    found, problems, (note,) = names(rows("neutral", "neg", "pos"), head=["neg", "pos"])
    assert found == ["neg", "neutral", "pos"] and problems == []
    assert '"neutral"' in note and "new head" in note
    assert names(rows("b", "a"), given=["b", "a"], head=["x", "y"])[0] == ["b", "a"]


def test_head_in_capitals_gets_a_hint():
    *_, (note,) = names(rows("negative", "positive"), head=["NEGATIVE", "POSITIVE"])
    assert "data.labels: {negative: NEGATIVE, positive: POSITIVE}" in note


@pytest.mark.parametrize(
    ("labels", "head", "expected"),
    [
        (["pos", "neg"], ["LABEL_0", "LABEL_1"], ["neg", "pos"]),
        (["1", "0"], ["LABEL_1", "LABEL_0"], ["1", "0"]),
        (["1", "0"], ["LABEL_0", "LABEL_1", "LABEL_2"], ["0", "1", "2"]),
        (["1", "5"], ["LABEL_0", "LABEL_1"], ["1", "5"]),
        (["LABEL_1", "LABEL_0"], ["LABEL_0", "LABEL_1"], ["LABEL_0", "LABEL_1"]),
    ],
)
def test_label_n_is_no_name_but_may_be_a_number(labels: list[str], head: list[str], expected: list[str]):
    assert names(rows(*labels), head=head) == (expected, [], [])


@pytest.mark.parametrize("train", [rows("pos", "neg", "postive"), rows(*["pos", "neg"] * 200, "posittive")])
def test_slips_do_not_cost_a_trained_head(train: list[Row]):
    head = ["pos", "neg", "positive"]
    found, problems, _ = names(train, head=head)
    assert found == head and problems == []
    problems, bad = audit({"train": train}, found, COLUMNS, False)
    assert [p.line for p in problems if is_row_problem(p)] == [len(train)] and bad == {("train.jsonl", len(train))}


def test_list_keeps_its_order_and_is_checked():
    assert names(rows("1", "0"), given=[1, 0]) == (["1", "0"], [], [])
    found, (problem,), _ = names(rows("a", "b"), given=["b", "a", "b"])
    assert found == ["b", "a"] and "more than once" in problem.found and problem.severity == "error"
    assert "empty name" in str(names(rows("a"), given=["a", " "])[1])
    assert "1 labels" in str(names(rows("a"), given=["a"])[1])
    assert names(rows(["a"], []), given=["a"], multi_label=True) == (["a"], [], [])


def test_map_gives_the_models_names():
    train, problems = apply_label_map(rows("1", "2", "5", "pos"), {1: "neg", 2: "neg", 5: "pos"})
    assert [row.fields["label"] for row in train] == ["neg", "neg", "pos", "pos"] and problems == []
    assert [row.key for row in train] == [row.key for row in rows("1", "2", "5", "pos")]
    assert names(train, given={1: "neg", 2: "neg", 5: "pos"}) == (["neg", "pos"], [], [])
    assert names(train, given={1: "neg", 2: "neg", 5: "pos"}, head=["pos", "neg"])[0] == ["pos", "neg"]


def test_map_that_lacks_a_label():
    train, (problem,) = apply_label_map(rows("good", "godo", "bad"), {"good": "pos", "bad": "neg"})
    assert [row.fields["label"] for row in train] == ["pos", "neg"]
    assert isinstance(problem, RowProblem) and problem.where == "train.jsonl:2"
    assert 'did you mean "good"' in problem.found and problem.kind == "unknown label"


def test_map_of_several_labels():
    train, _ = apply_label_map(rows(["a", "b", "c"], []), {"a": "x", "b": "y", "c": "x"})
    assert [row.fields["label"] for row in train] == [["x", "y"], []]


def test_misspelling_without_a_list_is_a_warning():
    train = rows(*["positive", "negative"] * 100, "postive", "postive")
    found, problems, _ = names(train)
    assert found == ["negative", "positive", "postive"]
    message = warned(problems)["label perhaps misspelt"]
    assert '"postive" (text) in 2 rows' in message and '"positive" in 100' in message and "train.jsonl:201" in message


@pytest.mark.parametrize(
    "train",
    [
        rows(*["book_flight"] * 10, *["book_flights"] * 10),  # two classes with near names
        rows(*["class_1"] * 5, "class_2"),  # few rows of everything
        rows(*["100"] * 200, "101"),  # numbers are not spelt
        rows(*["positive"] * 200, "oos"),  # rare, but like nothing else
    ],
)
def test_near_names_that_are_no_misspelling(train: list[Row]):
    assert names(train)[1] == []


def test_rows_without_any_label():
    found, (problem,), _ = names(rows([], []), multi_label=True)
    assert found == [] and "no label in any of 2 rows" in problem.found


# --------------------------------------------------------------------------------------------------------------- audit


def test_sound_splits_pass():
    splits = {"train": rows("a", "b", "a"), "validation": rows("a", "b", file="v"), "test": rows("b", "a", file="t")}
    assert audit(splits, ["a", "b"], COLUMNS, False) == ([], set())
    assert audit({"train": rows("a", "b")}, ["a", "b"], COLUMNS, False) == ([], set())


def test_label_outside_the_set_in_any_split():
    splits = {"train": rows("pos", "neg"), "test": rows("postive", "pos", "neg", "7", file="test.csv")}
    problems, bad = audit(splits, ["neg", "pos", "positive"], COLUMNS, False)
    errors = [p for p in problems if p.severity == "error"]
    assert [p.where for p in errors] == ["test.csv:1", "test.csv:4"] and all(map(is_row_problem, errors))
    assert bad == {("test.csv", 1), ("test.csv", 4)}
    assert 'did you mean "positive"' in errors[0].found and '"neg", "pos"' in errors[1].expected


def test_unknown_labels_in_every_row_take_no_time():
    train = rows(*["intent_zero"] * 20_000)
    started = time.process_time()
    _, bad = audit({"train": train}, [f"intent_{i}" for i in range(150)], COLUMNS, False)
    assert len(bad) == 20_000 and time.process_time() - started < 6  # a minute where each row was looked up anew


def test_one_class_only():
    (problem,), bad = audit({"train": rows("a", "a")}, ["a"], COLUMNS, False)
    assert problem.severity == "error" and not is_row_problem(problem) and not bad
    assert '"a" in 2 rows' in problem.found
    assert audit({"train": rows(["a"], [])}, ["a"], COLUMNS, True) == ([], set())


def test_class_that_a_split_lacks():
    splits = {"train": rows("a", "b"), "validation": rows("a", file="v"), "test": rows("a", "b", file="t")}
    problems, _ = audit(splits, ["a", "b"], COLUMNS, False)
    assert 'no row of 1 of 2 classes in validation: "b"' in warned(problems)["class without rows"]


def test_imbalance():
    problems, _ = audit({"train": rows(*["a"] * 101, "b")}, ["a", "b"], COLUMNS, False)
    assert '101 rows of "a", 1 of "b"' in warned(problems)["imbalance"]
    assert audit({"train": rows(*["a"] * 100, "b")}, ["a", "b"], COLUMNS, False)[0] == []


def test_rows_shared_between_splits_are_counted_by_pair():
    train = rows("a", "b", "a", texts=["1", "2", "3"])
    test = rows("b", "b", "a", texts=["1", "9", "3"], file="test.jsonl")  # the first with another label
    pool = [Row({"text": t}, "pool.jsonl", i, "") for i, t in enumerate(["1", "9"], 1)]
    problems, _ = audit({"train": train, "test": test, "unlabeled": pool}, ["a", "b"], COLUMNS, False)
    messages = warned(problems)
    assert set(messages) == {"rows shared by train, test", "rows shared by test, unlabeled"}
    assert "2 of 3 rows of test are in train too: test.jsonl:1, test.jsonl:3" in messages["rows shared by train, test"]
    assert "2 of 2 rows of unlabeled are in test too: pool.jsonl:1" in messages["rows shared by test, unlabeled"]


def test_second_text_makes_another_input():
    one, two = rows("a", "b", texts=["1", "2"]), rows("a", "b", texts=["1", "2"], file="test.jsonl")
    for row in two:
        row.fields["text_pair"] = "further"
    assert audit({"train": one, "test": two}, ["a", "b"], COLUMNS, False) == ([], set())


def test_conflicts_and_repeats():
    train = rows("a", "b", "a", "b", "b", texts=["1", "1", "2", "3", "3"])
    messages = warned(audit({"train": train}, ["a", "b"], COLUMNS, False)[0])
    assert (
        "2 rows of train share an input but not the label: train.jsonl:1, train.jsonl:2"
        in messages["conflicts in train"]
    )
    assert "1 rows of train are repeats: train.jsonl:5" in messages["repeated rows"]
    several = rows(["a", "b"], ["b", "a"], texts=["1", "1"])
    assert set(warned(audit({"train": several}, ["a", "b"], COLUMNS, True)[0])) == {"repeated rows"}
    assert audit({"train": rows("a", "b"), "test": train}, ["a", "b"], COLUMNS, False)[0][0].kind == "conflicts in test"


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["sentiment-airline", "intent-clinc150"])
def test_real_data_has_no_error(name: str, real_data: Path):
    def load(split: str) -> list[Row]:
        path = next((real_data / name).glob(f"{split}.jsonl*"))
        return read(DataSource(str(path)), COLUMNS, {})[0]

    splits = {split: load(split) for split in ("train", "validation", "test")}
    found, problems, notes = names(splits["train"])
    assert (len(found), problems, notes) == ({"sentiment-airline": 2, "intent-clinc150": 151}[name], [], [])
    problems, bad = audit(splits, found, COLUMNS, False)
    assert bad == set() and not [p for p in problems if p.severity == "error"]
    assert not {"repeated rows", "conflicts in train", "imbalance", "class without rows"} & {p.kind for p in problems}
