"""The three methods on real text, several seeds, as ordinary runs: what the README's table and docs/LOG.md quote.

    python benchmarks/real_text.py DATA_FOLDER OUTPUT_FOLDER [--only sst2 airline students agnews pool writing]

A finished run is skipped, so the command can be stopped and called again. The last part prints tables from the runs'
`result.json` alone. Hard pseudo-labels are `data.unlabeled_as: labels` at weight 0: the batches of the arm with a pool,
cross-entropy on all of their rows, and no teacher asked while it trains. Figures from before that field were of a file
made by hand, whose steps of 64 held labelled rows and pool half and half on average: they mean the same, and are other
draws of batches. `writing` is the same on a task that writes: translators of one layer a stack, cut from their teacher
(two layers, 8,000 pairs, cached), with 1,000 pairs and the English side of 7,000 more. DATA_FOLDER holds
sentiment-sst2/, sentiment-airline/, topic-agnews/ and translation-multi30k-en-de/ as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data_sets
import torch
from scipy import stats
from transformers import AutoTokenizer, BertConfig, BertModel

from keeltune import recipe
from keeltune.cli import demo
from keeltune.runs import run_folder
from keeltune.runs.run import train
from keeltune.utils.progress import Display

EPOCHS, RATE = 3, 5e-5
"""Of a run that says nothing of them, whatever keeltune's defaults are by now; and no rows are held out for it."""

SEEDS = range(3)
PAIRED_SEEDS = range(5)
LABELS = 500
POOLS: dict[str, dict[str, Any]] = {
    "sst2": {"data": "sentiment-sst2", "task": "sentiment-analysis", "steps": 200, "rate": 1e-4, "max_length": None},
    "agnews": {"data": "topic-agnews", "task": "text-classification", "steps": 120, "rate": 1e-4, "max_length": 64},
    "agnews-small": {
        "data": "topic-agnews",
        "task": "text-classification",
        "steps": 150,
        "rate": 1e-3,
        "max_length": 64,
    },
}
"""The students: two of MiniLM's layers; for `-small` a BERT of two layers, 128 wide, from random weights."""
PARTS = ("sst2", "airline", "students", "agnews", "pool", "writing")

PAIRS, KNOWN, STEPS = 8000, 1000, 300
"""Of Multi30k: pairs that the teacher learns, those among them that the students see, and the students' steps."""
WRITER = {"model_type": "marian", "d_model": 128, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
          "encoder_ffn_dim": 512, "decoder_ffn_dim": 512, "max_position_embeddings": 512, "scale_embedding": True,
          "dropout": 0.1}  # fmt: skip


class Bench:
    """Where data and runs lie, and how a run is made once."""

    def __init__(self, data: Path, out: Path):
        self.data, self.out = data.resolve(), out.resolve()
        self.encoder = demo.encoder_path()

    def file(self, name: str, split: str) -> str:
        found = sorted((self.data / name).glob(f"{split}.jsonl*"))
        return str(found[0])

    def splits(self, name: str, *names: str) -> dict[str, str]:
        return {split: self.file(name, split) for split in names or ("train", "validation", "test")}

    def run(self, name: str, **spec: Any) -> dict[str, Any]:
        """The run's result; trained now unless it was before."""
        file = self.out / name / "result.json"
        if not run_folder.finished(file.parent):
            print(f"… {name}", flush=True)
            values = {"task": "sentiment-analysis", "method": "fine-tuning", **spec, "output": name}
            length = {} if "max_steps" in spec.get("training", {}) else {"epochs": EPOCHS}
            values["training"] = {"learning_rate": RATE, **length, **spec.get("training", {})}
            values["data"] = {"validation": None, **values["data"]}
            train(recipe.from_dict(values, self.out), overwrite=file.parent.is_dir(), display=Display(quiet=True))
        return json.loads(file.read_text("utf-8"))


def accuracy(result: dict[str, Any], *where: str) -> float:
    value: Any = result["metrics"]
    for step in where or ("test",):
        value = value[step]
    return 100 * value["accuracy"]


def spread(values: list[float]) -> str:
    sd = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{sd} ({', '.join(f'{v:.1f}' for v in values)})"


def sst2(bench: Bench) -> Iterator[str]:
    scores = [
        accuracy(bench.run(f"sst2-{s}", model=bench.encoder, data=bench.splits("sentiment-sst2"), training={"seed": s}))
        for s in SEEDS
    ]
    yield f"SST-2, fine-tuning, 3 epochs, lr 5e-5: test {spread(scores)}"


def airline(bench: Bench) -> Iterator[str]:
    list(sst2(bench))
    data = {**bench.splits("sentiment-airline"), "source": {"test": bench.file("sentiment-sst2", "test")}}
    arms: dict[str, dict[str, Any]] = {
        "plain": {"method": "fine-tuning"},
        "anchor-0.29": {"method": "cross-domain", "objective": {"weight": 0.29}},
        "anchor-1": {"method": "cross-domain", "objective": {"weight": 1.0}},
    }
    for arm, spec in arms.items():
        results = [
            bench.run(f"airline-{arm}-{s}", **spec, model=f"sst2-{s}", data=data, training={"seed": s}) for s in SEEDS
        ]
        if arm == "plain":
            before = [accuracy(r, "before", "test") for r in results]
            source = [accuracy(r, "source", "before") for r in results]
            yield f"airline, before: target {spread(before)}; SST-2 {spread(source)}"
        target, source = ([accuracy(r, *w) for r in results] for w in (("test",), ("source", "after")))
        yield f"airline, {arm}: target {spread(target)}; SST-2 {spread(source)}"


def students(bench: Bench) -> Iterator[str]:
    list(sst2(bench))
    data = bench.splits("sentiment-sst2")
    for arm, origin, spec in (
        ("no teacher, pretrained layers", "encoder", {"method": "fine-tuning"}),
        ("reverse KL, weight 1, pretrained layers", "encoder", {"method": "distillation"}),
        ("no teacher, teacher's layers", "teacher", {"method": "fine-tuning"}),
        (
            "forward KL, T = 2, teacher's layers",
            "teacher",
            {"method": "distillation", "objective": {"divergence": "forward-kl", "temperature": 2.0}},
        ),
    ):
        scores = []
        for s in SEEDS:
            teacher = {"reference": f"sst2-{s}"} if spec["method"] == "distillation" else {}
            model = {"from": bench.encoder if origin == "encoder" else f"sst2-{s}", "layers": [0, 5]}
            name = f"student-{arm.replace(', ', '-').replace(' ', '-').replace(chr(39), '')}-{s}"
            result = bench.run(
                name, **spec, **teacher, model=model, data=data, training={"seed": s, "learning_rate": 1e-4}
            )
            scores.append(accuracy(result))
        yield f"SST-2, student of layers 0 and 5, lr 1e-4, {arm}: test {spread(scores)}"


def agnews(bench: Bench) -> Iterator[str]:
    common = {
        "task": "text-classification",
        "model": bench.encoder,
        "data": bench.splits("topic-agnews"),
        "max_length": 64,
    }
    scores = [accuracy(bench.run(f"agnews-{s}", **common, training={"seed": s, "epochs": 1})) for s in SEEDS]
    yield f"AG News, fine-tuning, 1 epoch, lr 5e-5, 64 tokens: test {spread(scores)}"


def pool(bench: Bench) -> Iterator[str]:
    for name in POOLS:
        gains: dict[str, list[float]] = {}
        seconds: dict[str, list[float]] = {}
        for s in PAIRED_SEEDS:
            results = _pool_seed(bench, name, s)
            for arm, result in results.items():
                gains.setdefault(arm, []).append(accuracy(result))
                seconds.setdefault(arm, []).append(result["training"]["seconds"])
        for arm, scores in gains.items():
            line = f"{name}, {LABELS} labels, {arm}: test {spread(scores)}, {statistics.mean(seconds[arm]):.0f} s"
            if arm not in ("teacher", "plain"):
                line += f"; gain over plain {_paired(scores, gains['plain'])}"
            yield line


def _pool_seed(bench: Bench, name: str, seed: int) -> dict[str, dict[str, Any]]:
    """The teacher and the students of one draw of 500 labels; every student is the same, and has the same steps."""
    spec = POOLS[name]
    files = _few_labels(bench, spec["data"], seed)
    test = bench.file(spec["data"], "test")
    how = {"task": spec["task"], "max_length": spec["max_length"]}
    taught_by = f"pool-{name.removesuffix('-small')}-teacher-{seed}"
    labelled = {"train": files["few"], "test": test}
    results = {
        "teacher": bench.run(taught_by, **how, model=bench.encoder, data=labelled, training={"seed": seed, "epochs": 8})
    }
    student = _small_student(bench) if name.endswith("-small") else {"from": bench.encoder, "layers": [0, 5]}
    training = {"seed": seed, "learning_rate": spec["rate"], "max_steps": spec["steps"]}
    taught = {"method": "distillation", "reference": taught_by, "training": training}
    with_pool = {**labelled, "unlabeled": files["rest"]}
    arms: dict[str, dict[str, Any]] = {
        "plain": {"data": labelled, "training": training},
        "reverse": {**taught, "data": with_pool},
        "hard": {**taught, "data": {**with_pool, "unlabeled_as": "labels"}, "objective": {"weight": 0.0}},
    }
    names = {"plain": "plain", "reverse": "reverse KL + pool", "hard": "hard pseudo-labels"}
    for arm, made in arms.items():
        results[names[arm]] = bench.run(f"pool-{name}-{arm}-{seed}", **how, model=student, **made)
    return results


def writing(bench: Bench) -> Iterator[str]:
    """The students of `PAIRED_SEEDS`, three of them, on the same pairs: their test BLEU, and what a pool adds to it."""
    made, pairs = bench.out / "data", bench.data / "translation-multi30k-en-de"
    rows = data_sets.rows(pairs, "train", PAIRS)
    test = data_sets.written(made / "multi30k-test.jsonl", data_sets.lines(pairs, "test", 400))
    whole = data_sets.written(made / "multi30k-train.jsonl", rows)
    writer = {**WRITER, "encoder_layers": 2, "decoder_layers": 2}
    how: dict[str, Any] = {"task": "translation", "generation": {"max_new_tokens": 40}}
    teacher = bench.run(
        "writing-teacher", **how, model={"new": writer, "tokenizer": {"train": "bpe", "size": 4000}},
        data={"train": whole, "test": test}, training={"epochs": 12, "batch_size": 64, "learning_rate": 2e-3},
    )  # fmt: skip
    yield f"Multi30k, teacher, {PAIRS} pairs: test BLEU {teacher['metrics']['test']['bleu']:.1f}"
    small = {"from": "writing-teacher/model", "layers": 1}
    scores: dict[str, list[float]] = {}
    for s in SEEDS:
        drawn = random.Random(s).sample(rows, len(rows))
        few = data_sets.written(made / f"multi30k-few-{s}.jsonl", drawn[:KNOWN])
        texts = [{"source": row["source"]} for row in drawn[KNOWN:]]
        rest = data_sets.written(made / f"multi30k-rest-{s}.jsonl", texts)
        taught = {"method": "distillation", "reference": {"model": "writing-teacher", "from": "cached"}}
        pool = {"train": few, "test": test, "unlabeled": rest}
        arms: dict[str, dict[str, Any]] = {
            "plain": {"data": {"train": few, "test": test}},
            "reverse KL + pool": {**taught, "data": pool},
            "hard pseudo-labels": {**taught, "reference": "writing-teacher", "objective": {"weight": 0.0},
                                   "data": {**pool, "unlabeled_as": "labels"}},
        }  # fmt: skip
        for arm, spec in arms.items():
            training = {"seed": s, "max_steps": STEPS, "batch_size": 32, "learning_rate": 1e-3}
            name = f"writing-{arm.split()[0].lower()}-{s}"
            result = bench.run(name, **how, **spec, model=small, training=training)
            scores.setdefault(arm, []).append(result["metrics"]["test"]["bleu"])
    for arm, found in scores.items():
        gain = "" if arm == "plain" else f"; gain over plain {_paired(found, scores['plain'])}"
        yield f"Multi30k, {KNOWN} pairs, {arm}: test BLEU {spread(found)}{gain}"


def _small_student(bench: Bench) -> str:
    """A BERT of two layers, 128 wide, with random weights and MiniLM's tokenizer."""
    folder = bench.out / "data" / "small-student"
    if not folder.is_dir():
        torch.manual_seed(0)
        config = BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
        BertModel(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(bench.encoder).save_pretrained(folder)
    return str(folder)


def _few_labels(bench: Bench, name: str, seed: int) -> dict[str, str]:
    """500 labelled rows drawn by the seed, and the other texts without their labels."""
    folder = bench.out / "data" / f"{name}-{seed}"
    files = {"few": folder / "few.jsonl", "rest": folder / "rest.jsonl"}
    if not files["rest"].is_file():
        rows = data_sets.rows(bench.data / name, "train")
        random.Random(seed).shuffle(rows)
        data_sets.written(files["few"], rows[:LABELS])
        data_sets.written(files["rest"], [{"text": row["text"]} for row in rows[LABELS:]])
    return {key: str(path) for key, path in files.items()}


def _paired(scores: list[float], plain: list[float]) -> str:
    """Mean paired difference with its 95 % t-interval over seeds."""
    differences = [a - b for a, b in zip(scores, plain, strict=True)]
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    mean = statistics.mean(differences)
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    bench = Bench(options.data, options.output)
    for part in options.only:
        for line in globals()[part](bench):
            print(line, flush=True)


if __name__ == "__main__":
    main()
