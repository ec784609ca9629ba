"""What `keeltune check` takes for a large file: processor time and peak memory of the whole command.

    python benchmarks/check_speed.py OUT [--megabytes 200 400] [--bytes 330 40] [--formats jsonl csv parquet]

Each measurement is a process of its own, timed by the kernel (user and system, its children too), the best of the
rounds. `start` is the same command on 100 rows: Python, torch, transformers and the model's configuration. `json.loads`
is how fast Python's own reader goes through the same rows as JSON lines, in the round before: on a busy machine every
processor time grows, and the quotient of the two hardly does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

WORDS = ["the", "a", "film", "plot", "is", "was", "not", "good", "bad", "dull", "fine", "very", "and", "but", "long"]


def save_model(folder: Path) -> None:
    """A small BERT with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=128, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)


def rows_of(size: int) -> Iterator[dict[str, str]]:
    """Rows of about so many bytes as JSON lines; no two are the same."""
    draw, number = random.Random(0), 0
    while True:
        number += 1
        words = draw.choices(WORDS, k=max(0, round((size - 45) / 4.1)))
        yield {"text": " ".join([*words, str(number)]), "label": draw.choice(["negative", "positive"])}


def write(file: Path, size: int, most: int) -> int:
    """Rows of `size` bytes, so many bytes of them as JSON lines; how many rows they are."""
    count = most // len(json.dumps(next(islice(rows_of(size), 5000, None))) + "\n")
    rows = islice(rows_of(size), count)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), file)
        return count
    with file.open("w", encoding="utf-8") as stream:
        if file.suffix == ".csv":
            stream.write("text,label\n")
        for row in rows:
            stream.write(f"{row['text']},{row['label']}\n" if file.suffix == ".csv" else json.dumps(row) + "\n")
    return count


def check(file: Path) -> tuple[float, int]:
    """(seconds of processor time, MiB at most) of the command on one file."""
    recipe = file.with_suffix(".yaml")
    recipe.write_text(
        f"task: text-classification\nmethod: fine-tuning\nmodel: model\noutput: out\ndata: {{train: {file.name}}}\n"
    )
    child = os.fork()
    if child == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os.execv(sys.executable, [sys.executable, "-m", "keeltune", "check", str(recipe)])
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"keeltune check {recipe} ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss // 1024


def json_rate(size: int) -> float:
    """MB a second of `json.loads` over 20 MB of the same rows."""
    lines = [json.dumps(row) for row in islice(rows_of(size), 20_000_000 // size)]
    begun = time.process_time()
    for line in lines:
        json.loads(line)
    return sum(map(len, lines)) / (time.process_time() - begun) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[200, 400])
    parser.add_argument("--bytes", type=int, nargs="+", default=[330, 40])
    parser.add_argument("--formats", nargs="+", default=["jsonl"], choices=["jsonl", "csv", "parquet"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    save_model(options.out / "model")
    few = options.out / "few.jsonl"
    write(few, 330, 33_000)
    print("format  bytes  MB     rows   start s  whole s  MB/s  after start  json.loads  MiB")
    for ending in options.formats:
        for size in options.bytes:
            for megabytes in options.megabytes:
                file = options.out / f"{size}-{megabytes}.{ending}"
                count = write(file, size, megabytes * 1_000_000)
                rounds = [(json_rate(size), check(few), check(file)) for _ in range(options.rounds)]
                rate, start = max(r[0] for r in rounds), min(r[1][0] for r in rounds)
                whole, memory = min(r[2][0] for r in rounds), max(r[2][1] for r in rounds)
                print(
                    f"{ending:7} {size:5} {megabytes:4} {count:8} {start:9.2f} {whole:8.2f} {megabytes / whole:5.0f} "
                    f"{megabytes / (whole - start):12.0f} {rate:11.0f} {memory:5}",
                    flush=True,
                )
                file.unlink()


if __name__ == "__main__":
    main()
