"""Rows that are held out where a recipe names none: their number, their labels, and that nothing leaks."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from keeltune.data import held_out
from keeltune.data.columns import Column
from keeltune.data.dataset import Row, row_key

LABELLED = (Column("text"), Column("label", "label", label=True))
PAIRS = (Column("question"), Column("context"), Column("answers", "answers", label=True))


def rows_of(fields):
    return [Row(of_row, "rows.jsonl", n, row_key(of_row, sorted(of_row))) for n, of_row in enumerate(fields, 1)]


def held(rows, columns, count, **how):
    train, validation = held_out.hold_out(rows, columns, count, how.pop("seed", 0), **how)
    assert sorted(row.line for row in (*train, *validation)) == [row.line for row in rows]
    return train, validation


@pytest.mark.parametrize(
    ("rows", "written", "count"),
    [(99, False, 0), (100, False, 20), (200, False, 40), (400, False, 40), (3000, False, 300), (50_000, False, 1000),
     (50_000, True, 200)],
)  # fmt: skip
def test_how_many(rows, written, count):
    assert held_out.count(rows, written=written) == count


def test_each_label_gives_its_share_and_a_rare_one_stays():
    fields = [{"text": f"a text of its own, {n}", "label": name} for name, count in
              (("common", 300), ("usual", 95), ("rare", 4), ("once", 1)) for n in range(count)]  # fmt: skip
    train, validation = held(rows_of(fields), LABELLED, 40)
    assert Counter(row.fields["label"] for row in validation) == {"common": 30, "usual": 10}
    assert {row.fields["label"] for row in train} == {"common", "usual", "rare", "once"}


def test_the_order_changes_nothing_and_the_seed_does():
    rows = rows_of([{"text": f"text number {n} of them", "label": "ab"[n % 2]} for n in range(200)])
    shuffled = random.Random(1).sample(rows, len(rows))
    keys = [{row.key for row in held_out.hold_out(order, LABELLED, 40, seed)[1]} for order, seed in
            ((rows, 0), (shuffled, 0), (rows, 1))]  # fmt: skip
    assert keys[0] == keys[1] != keys[2]


def test_no_copy_is_on_both_sides_be_it_written_otherwise():
    fields = [{"text": f"Order number {n} has not come.", "label": "ab"[n % 2]} for n in range(100)]
    fields += [{"text": row["text"].upper() + "!", "label": row["label"]} for row in fields[:50]]
    fields += [{"text": fields[n]["text"], "label": "ba"[n % 2]} for n in range(20)]  # with another label
    train, validation = held(rows_of(fields), LABELLED, 30)
    assert len(validation) >= 25
    plain = [{row.fields["text"].lower().rstrip(".!") for row in side} for side in (train, validation)]
    assert not plain[0] & plain[1]


def test_the_questions_of_a_text_stay_together_and_one_text_for_all_groups_nothing():
    fields = [{"question": f"What is said of {n}?", "context": f"The text of chapter {n // 5} says it.", "answers": n}
              for n in range(300)]  # fmt: skip
    train, validation = held(rows_of(fields), PAIRS, 40)
    assert len(validation) == 40
    assert not {row.fields["context"] for row in train} & {row.fields["context"] for row in validation}
    _, of_one_text = held(rows_of([row | {"context": "The same text for all."} for row in fields]), PAIRS, 40)
    assert len(of_one_text) == 40


def test_a_speaker_lies_on_one_side():
    fields = [{"text": f"sentence {n} of its own", "label": "ab"[n % 2], "speaker": n % 20} for n in range(200)]
    train, validation = held(rows_of(fields), LABELLED, 40, clusters="speaker")
    assert len(validation) == 40
    assert not {row.fields["speaker"] for row in train} & {row.fields["speaker"] for row in validation}


def test_numbers_are_no_labels():
    fields = [{"text": f"text number {n} of them", "label": n / 7} for n in range(100)]
    assert len(held(rows_of(fields), LABELLED, 20)[1]) == 20


def test_chinese_and_short_texts():
    fields = [{"text": f"第{n}件商品很好用", "label": "好坏"[n % 2]} for n in range(100)]
    fields += [{"text": word, "label": "好坏"[n % 2]} for n, word in enumerate(["ok", "no"] * 10)]
    train, validation = held(rows_of(fields), LABELLED, 24)
    assert len(validation) == 24
    assert not {row.fields["text"] for row in train} & {row.fields["text"] for row in validation}
