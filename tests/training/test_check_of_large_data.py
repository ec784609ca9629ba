"""`check` of large data: every row is read and compared, some are encoded; reading keeps its pace."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keeltune.data import audit
from keeltune.data.labels import names_of_data
from keeltune.data.reading import read
from keeltune.data.sources import DataSource
from keeltune.recipe import from_dict
from keeltune.tasks.text_classification import TextClassification
from keeltune.training.preparation.prepare import prepare
from keeltune.training.preparation.splits import sound_rows
from tests.helpers.models import WORDS, save_tiny


def reviews(count: int, words: int) -> bytes:
    draw = random.Random(0)
    rows = [
        {
            "id": i,
            "text": " ".join(draw.choices(WORDS, k=words)) + f" {i}",
            "label": draw.choice(["negative", "positive"]),
        }
        for i in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_check_encodes_some_rows_of_a_large_split_and_reads_all(tmp_path: Path):
    save_tiny(tmp_path / "m")
    (tmp_path / "train.jsonl").write_bytes(reviews(400, 8))
    (tmp_path / "test.jsonl").write_bytes(reviews(60, 8))
    values = {"task": "text-classification", "method": "fine-tuning", "model": "m", "output": "o",
              "data": {"train": "train.jsonl", "test": "test.jsonl"}}  # fmt: skip
    whole = prepare(from_dict(values, tmp_path))
    some = prepare(from_dict(values, tmp_path), limit=100)
    assert {name: len(rows) for name, rows in some.rows.items()} == {n: len(rows) for n, rows in whole.rows.items()}
    assert len(some.encoded["train"]) == 100 and len(some.encoded["test"]) == 60 and len(whole.encoded["train"]) == 400
    assert some.steps == whole.steps and some.sampled and not whole.sampled
    assert [n for n in some.notices if "100 of 400 rows of train" in n] and not [
        n for n in some.notices if "of test" in n
    ]
    assert some.scale("train") == 4 and some.scale("test") == whole.scale("train") == 1
    warned = [w.found for w in some.warnings if "share" in w.found or "both" in w.found or "in train" in w.found]
    assert warned == [
        w.found for w in whole.warnings if "share" in w.found or "both" in w.found or "in train" in w.found
    ]


def best(call: Callable[[], Any], times: int = 3) -> float:
    """CPU seconds of the fastest of several calls."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)


def test_rows_are_read_labelled_and_compared_in_a_few_times_the_time_of_their_json(tmp_path: Path):
    """3.5 times as long as `json.loads` of lines that are there, as measured; ten times before."""
    (tmp_path / "a.jsonl").write_bytes(reviews(10_000, 70))
    source, columns = DataSource(str(tmp_path / "a.jsonl")), TextClassification.columns

    def all_of_it() -> None:
        rows, _ = sound_rows(TextClassification, read(source, columns, {})[0])
        names, *_ = names_of_data(rows, listed=None, head=None, multi_label=False)
        assert len(rows) == 10_000 and audit.audit({"train": rows}, names, columns, False) == ([], set())

    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert best(all_of_it) < 7 * best(lambda: [json.loads(line) for line in lines])
