"""Rows encoded into a file are the rows encoded into lists, to the bit, and so is what is trained on them."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keeltune.data.dataset import Row
from keeltune.tasks.common import example_file
from keeltune.tasks.common.batches import by_length
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.example_file import ExampleTable, ExampleWriter, Unfit
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.common.stored_examples import (
    StoredRowExamples,
    anchored_as,
    anchored_in,
    counts_of,
    flat,
    lengths_of,
)
from keeltune.tasks.task import Task
from keeltune.tasks.text_classification import TextClassification
from keeltune.training.batch_plan import Plan, Stream
from keeltune.training.preparation import encoded_rows, row_encoding
from keeltune.training.preparation.encoded_rows import EXAMPLES, Shelf, identity_of
from tests.helpers import readers, runs, taggers, writers
from tests.helpers.models import word_tokenizer


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoded_rows, "STORED_FROM", 2)
    monkeypatch.setattr(example_file, "BLOCK", 3)


def stored(encoded: list[list[Example]], folder: Path) -> StoredRowExamples:
    writer = ExampleWriter(folder / EXAMPLES)
    for examples in encoded:
        writer.add(examples)
    starts = np.concatenate([[0], np.cumsum(writer.close())])
    return StoredRowExamples(ExampleTable(folder / EXAMPLES), starts)


def reviews(count: int = 11) -> list[Row]:
    return [
        Row({"text": row["text"], "label": row["label"]}, "f", i + 1, f"k{i}")
        for i, row in enumerate(runs.reviews(count, seed=2))
    ]


def classifier(**settings: Any) -> Task:
    return TextClassification(word_tokenizer(), Settings(("negative", "positive"), **settings))


def read_by(kind: str) -> list[list[Example]]:
    """Rows as tasks of each kind encode them: strides of questions, tags, a text that is written, a prompt."""
    if kind == "question":
        task, rows = readers.reader("bert", max_length=24)[1], readers.rows()
    elif kind == "tags":
        task, rows = taggers.tagger("bert")[1], taggers.rows()
    elif kind == "class":
        task, rows = classifier(max_length=6, class_weights={"negative": 0.1}), reviews()
    else:
        task, rows = writers.writer(kind)[1], writers.rows()
    return [task.encode(row) for row in rows]


@pytest.mark.parametrize("kind", ["question", "tags", "class", "marian", "gpt2"])
def test_an_example_is_read_as_it_was_written(kind: str, tmp_path: Path):
    encoded = read_by(kind)
    again = stored(encoded, tmp_path)
    assert list(again) == encoded and again[-1] == encoded[-1]
    for mine, theirs in zip(flat(again), flat(encoded), strict=True):
        assert mine == theirs and types(mine) == types(theirs)
    assert counts_of(again) == counts_of(encoded)
    assert lengths_of(flat(again)).tolist() == [e.length for row in encoded for e in row]
    assert list(again[1::2]) == encoded[1::2] and list(flat(again[1::2])) == flat(encoded[1::2])
    assert list(flat(again)[2:5]) == list(flat(encoded))[2:5]
    rebuilt, arguments = again.table.__reduce__()  # another process opens the file anew
    assert rebuilt(*arguments).example(1) == flat(encoded)[1]


def types(example: Example) -> list[Any]:
    parts = [*example.inputs.values(), example.targets, example.weights, example.predicted, *example.notes.values()]
    return [(type(part), {type(v) for v in part} if isinstance(part, list | tuple | array) else None) for part in parts]


PLAIN = Example({"input_ids": [1, 2]}, [0], [1.0], "k", 2)


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAIN, inputs={"input_ids": [1, 2], "more": [1]}),
        replace(PLAIN, inputs={"input_ids": [1, 2.0]}),
        replace(PLAIN, inputs={"input_ids": [1, 2**40]}),
        replace(PLAIN, inputs={"input_ids": np.array([1, 2])}),
        replace(PLAIN, targets=(0,)),
        replace(PLAIN, weights=[1]),
        replace(PLAIN, count=3),
        replace(PLAIN, anchored=True),
        replace(PLAIN, others={"reader": PLAIN}),
        replace(PLAIN, notes={"a": (1, 2)}),
        replace(PLAIN, notes={"a": float("nan")}),
        replace(PLAIN, notes={"a": {1: 2}}),
        replace(PLAIN, notes={"a": 2**70}),
    ],
    ids=lambda e: repr(e)[:70],
)
def test_what_would_be_read_as_something_else_is_refused(other: Example, tmp_path: Path):
    with pytest.raises(Unfit):
        stored([[PLAIN], [other]], tmp_path)


def test_a_plan_meets_the_same_rows_in_the_same_order(tmp_path: Path):
    lists = [classifier().encode(row) for row in reviews(23)]
    files = stored(lists, tmp_path)

    def plan(of: Any, carries: bool) -> Plan:
        main, beside = anchored_as(flat(of), carries), anchored_as(flat(of[:9]), True)
        return Plan(main, [Stream("s", beside, 1.5)], batch_size=2, micro_batches=2, seed=3, collate=list)  # type: ignore[arg-type]

    for carries in (False, True):
        mine, theirs = plan(files, carries), plan(lists, carries)
        for epoch in range(2):
            for item in range(len(theirs)):
                mine.set_epoch(epoch)
                theirs.set_epoch(epoch)
                assert mine[item] == theirs[item]
        assert mine.anchored_per_step == theirs.anchored_per_step
        assert list(mine.anchored_examples()) == list(theirs.anchored_examples())
        assert anchored_in(mine.examples) == anchored_in(theirs.examples)
        assert by_length(mine.examples, 4) == by_length(theirs.examples, 4)


# ------------------------------------------------------------------------------------------------------------ the shelf


def encode(task: Task, rows: list[Row], folder: Path, split: str = "train") -> Any:
    _, encoded, problems = row_encoding.encode_splits(task, {split: rows}, shelf=Shelf(folder))
    assert not problems
    return encoded[split]


def test_the_next_run_reads_what_this_one_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = reviews()
    first = encode(classifier(), rows, tmp_path)
    monkeypatch.setattr(TextClassification, "encode", None)  # nothing is encoded again
    assert list(encode(classifier(), rows, tmp_path)) == list(first)
    assert len(list(tmp_path.iterdir())) == 1


def of_labels(*labels: str, words: list[str] | None = None) -> Task:
    return TextClassification(word_tokenizer(words=words), Settings(labels))


def with_column(rows: list[Row]) -> list[Row]:
    return [replace(row, fields={**row.fields, "x": 1}) for row in rows]


OTHERS: dict[str, Callable[[list[Row]], tuple[Task, list[Row], str]]] = {
    "length": lambda rows: (classifier(max_length=4), rows, "train"),
    "weights": lambda rows: (classifier(class_weights={"negative": 2.0}), rows, "train"),
    "labels": lambda rows: (of_labels("positive", "negative"), rows, "train"),
    "tokenizer": lambda rows: (of_labels("negative", "positive", words=["the", "good"]), rows, "train"),
    "rows": lambda rows: (classifier(), rows[1:], "train"),
    "order": lambda rows: (classifier(), rows[::-1], "train"),
    "another column": lambda rows: (classifier(), with_column(rows), "train"),
    "unlabelled": lambda rows: (classifier(), rows, "unlabeled"),
}


@pytest.mark.parametrize("change", OTHERS)
def test_what_examples_depend_on_is_in_their_identity(change: str, tmp_path: Path):
    rows = reviews()
    encode(classifier(), rows, tmp_path)
    task, others, split = OTHERS[change](rows)
    again = encode(task, others, tmp_path, split)
    assert len(list(tmp_path.iterdir())) == 2
    expected = row_encoding.encode_rows(task, others, partial(row_encoding.encode_row, task, split=split))[1]
    assert list(again) == expected


def test_how_a_tokenizer_was_called_last_is_not_in_it():
    rows, task = reviews(), classifier()
    before = identity_of(task, rows, "learnt")
    task.tokenizer("the film", truncation=True, max_length=3, padding="max_length")
    assert identity_of(task, rows, "learnt") == before is not None


def test_a_file_that_is_not_as_it_was_written_is_made_again(tmp_path: Path):
    rows = reviews()
    expected = list(encode(classifier(), rows, tmp_path))
    (folder,) = tmp_path.iterdir()
    content = bytearray((folder / EXAMPLES).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / EXAMPLES).write_bytes(content)
    assert list(encode(classifier(), rows, tmp_path)) == expected
    assert Shelf(tmp_path).known(identity_of(classifier(), rows, "learnt")) is not None


def test_rows_with_faults_are_left_out_and_said_each_time(tmp_path: Path):
    task, rows = classifier(), reviews()
    highest = sorted(max(example.inputs["input_ids"]) for row in rows for example in task.encode(row))
    task.settings = replace(task.settings, bounds=replace(task.settings.bounds, reads=highest[len(rows) // 2]))
    for _ in range(2):
        taken, encoded, problems = row_encoding.encode_splits(task, {"train": rows}, shelf=Shelf(tmp_path))
        good, lists, faulty = row_encoding.encode_rows(task, rows, task.encode)
        assert 0 < len(good) < len(rows) and problems == faulty and list(taken["train"]) == good
        assert list(encoded["train"]) == lists and isinstance(encoded["train"], StoredRowExamples)
    assert not list(tmp_path.glob("encoded-*"))


def test_where_nothing_can_be_written_rows_are_held(tmp_path: Path):
    (tmp_path / "file").write_text("")
    rows = reviews()
    encoded = encode(classifier(), rows, tmp_path / "file")
    assert encoded == [classifier().encode(row) for row in rows]


def test_two_processes_write_the_same_rows(tmp_path: Path):
    """The one that ends second finds what the first put there, and both read it."""
    rows, task = reviews(), classifier()
    identity, inner = identity_of(task, rows, "learnt"), []

    def write(writer: ExampleWriter) -> bool:
        for row in rows:
            writer.add(task.encode(row))
        return True

    def beside(writer: ExampleWriter) -> bool:
        inner.append(Shelf(tmp_path).filled(identity, write))
        return write(writer)

    outer = Shelf(tmp_path).filled(identity, beside)
    assert list(outer) == list(inner[0]) == [task.encode(row) for row in rows]
    assert [path.name[:8] for path in tmp_path.iterdir()] == ["encoded-"]


def test_the_folders_used_longest_ago_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoded_rows, "KEPT", 2)
    for length in (5, 6, 7):
        encode(classifier(max_length=length), reviews(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_on_files_is_the_run_on_lists_to_the_bit(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch):
    finished = {}
    for name, least in (("lists", 10**9), ("files", 2), ("files again", 2)):
        monkeypatch.setattr(encoded_rows, "STORED_FROM", least)
        folder = tmp_path / name.split()[0]
        folder.mkdir(exist_ok=True)
        spec = runs.spec_of("distillation", tiny(), reference=str(tiny(seed=1)), output=name)
        finished[name] = runs.train(spec, runs.make_data(folder))
    assert list((tmp_path / "files" / ".cache").glob("encoded-*")) and not list(
        (tmp_path / "lists").glob(".cache/encoded-*")
    )
    expected = finished.pop("lists")
    for other in finished.values():
        assert runs.furthest(expected, other) == 0.0
        logs = [[{k: v for k, v in line.items() if k in ("loss", "cross_entropy", "divergence", "step")} for line in
                 runs.lines(run.folder / "log.jsonl")] for run in (expected, other)]  # fmt: skip
        assert logs[0] == logs[1]
        texts = [(run.folder / "predictions" / "test.jsonl").read_text() for run in (expected, other)]
        assert texts[0] == texts[1]
