"""What is shown of an evaluation: a few rows as texts, the same ones each time, whatever their values are."""

from __future__ import annotations

import json
from types import SimpleNamespace

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.evaluation.samples import LETTERS, SHOWN, samples
from keeltune.tasks.common.example import Prediction


def task_of(*columns: Column, answer: str = "text", label: str = "label") -> SimpleNamespace:
    return SimpleNamespace(
        columns=columns, answer=answer, gold=lambda row: row.fields[label],
        row_score=lambda value, gold: float(value == gold),
    )  # fmt: skip


def answered(value: object) -> Prediction:
    return Prediction(value, None, 0.0, 0.0)


def row(line: int = 1, **fields: object) -> Row:
    return Row(fields, "rows.jsonl", line, f"key-{line}")


TEXT, LABEL = Column("text"), Column("label", "label", label=True)


def test_the_first_rows_are_shown_with_their_answers():
    rows = [row(n + 5, text=f"text {n}", label="good", note="not shown") for n in range(50)]
    shown = samples(task_of(TEXT, LABEL, answer="label"), [answered("good")] * 25 + [answered("bad")] * 25, rows)
    assert len(shown) == SHOWN
    assert shown[0] == {"row": 5, "inputs": {"text": "text 0"}, "prediction": "good", "gold": "good", "score": 1.0}
    few = samples(task_of(TEXT, LABEL), [answered("bad")], rows[:1])
    assert [one["score"] for one in few] == [0.0]


def test_long_texts_are_cut_so_that_all_of_it_stays_small():
    fields = {"document": "x" * 10**6, "summary": ["y" * 10**6, "z"]}
    task = task_of(Column("document"), Column("summary", label=True), label="summary")
    shown = samples(task, [answered("w" * 10**6)] * 20, [row(**fields)] * 20)
    assert all(
        len(text) == LETTERS for one in shown for text in (one["prediction"], one["gold"], *one["inputs"].values())
    )
    assert len(json.dumps(shown)) < 10_000


def test_values_that_are_no_texts_are_said_in_one():
    chat = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}]
    fields = {"tokens": ["The", "cat"], "messages": chat, "index": 3, "empty": None, "label": ["B-A0", "O"]}
    columns = [Column(name) for name in ("tokens", "messages", "index", "empty", "absent")]
    (shown,) = samples(task_of(*columns, LABEL, answer="tags"), [answered(["O", "O"])], [row(**fields)])
    assert shown["inputs"] == {"tokens": "The cat", "messages": "user: Where? assistant: There.", "index": "3"}
    assert (shown["prediction"], shown["gold"]) == ("O O", "B-A0 O")
    (shown,) = samples(task_of(TEXT, LABEL), [answered([])], [row(text="?", label=["Rome", "Roma"])])
    assert (shown["prediction"], shown["gold"]) == ("", "Rome · Roma")  # no answer, and two right ones
