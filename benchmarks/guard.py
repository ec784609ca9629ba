"""Does the guard see what it should? MiniLM on real rows.

    python benchmarks/guard.py DATA_FOLDER OUTPUT_FOLDER [--only overfitted shuffled duplicated planted]

    overfitted   500 labels of SST-2, 15 epochs at 1e-4, three seeds: the guard's model beside the last weights of the
                 same training
    shuffled     the same rows, their labels shuffled
    duplicated   validation rows that were trained on
    planted      a token in 95 % of the positive training rows: groups, exchanged terms and telling words of teacher,
                 a plain student of two layers, and a distilled one

A finished run is skipped and a stopped one goes on.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import data_sets

from keeltune import recipe
from keeltune.cli import demo
from keeltune.runs import comparison, run, run_folder
from keeltune.utils.progress import Display

QUIET = Display(quiet=True)
TOKEN = "zq"


class Bench:
    def __init__(self, folder: Path, out: Path):
        self.folder, self.out = folder.resolve(), out.resolve()

    def rows(self, name: str, split: str, count: int) -> list[dict[str, Any]]:
        return data_sets.rows(self.folder / name, split, count)

    def file(self, name: str, rows: list[dict[str, Any]]) -> str:
        return data_sets.written(self.out / "data" / f"{name}.jsonl", rows)

    def run(self, name: str, **values: Any) -> run.Run:
        print(f"… {name}", flush=True)
        base = {"task": "sentiment-analysis", "method": "fine-tuning", "model": demo.encoder_path()}
        made = recipe.from_dict({**base, **values, "output": name}, self.out)
        return run.train(made, resume=(self.out / name).is_dir(), display=QUIET)


def told(done: run_folder.Run) -> None:
    found = done.result["overfitting"]
    print(f"{done.folder.name}: {found['verdict']}")
    for signal in found["signals"]:
        if signal["light"] != "green":
            print(f"    {signal['light']} {signal['name']}: {signal['said']}", flush=True)


def overfitted(bench: Bench) -> None:
    train = bench.file("sst2-500", bench.rows("sentiment-sst2", "train", 500))
    validation = bench.file("sst2-validation", bench.rows("sentiment-sst2", "validation", 400))
    test = bench.file("sst2-test", bench.rows("sentiment-sst2", "test", 1821))
    how = {"training": {"epochs": 15, "learning_rate": 1e-4, "seed": [0, 1, 2]}}
    guarded = bench.run("guarded", data={"train": train, "validation": validation, "test": test}, **how)
    last = bench.run("last", data={"train": train, "test": test}, **how)
    for seed in (0, 1, 2):
        told(run_folder.finished(guarded.folder / f"seed-{seed}") or guarded)
    for done in (guarded, last):
        metrics, intervals = done.result["metrics"]["test"], done.result["intervals"]["test"]
        print(f"{done.folder.name}: {done.result['training']['steps']} steps, test accuracy {metrics['accuracy']:.4f} "
              f"{intervals['accuracy']}, loss {metrics['loss']:.3f}")  # fmt: skip
    against = comparison.compare([last.folder, guarded.folder])["runs"][1]["against"]["target"]
    print(f"the guard's model beside the last one: {against}", flush=True)


def shuffled(bench: Bench) -> None:
    rows = bench.rows("sentiment-sst2", "train", 500)
    labels = [row["label"] for row in rows]
    random.Random(0).shuffle(labels)
    train = bench.file("sst2-shuffled", [{**row, "label": label} for row, label in zip(rows, labels, strict=True)])
    validation = bench.file("sst2-validation", bench.rows("sentiment-sst2", "validation", 400))
    told(bench.run("shuffled", data={"train": train, "validation": validation},
                   training={"epochs": 15, "learning_rate": 1e-4}, evaluation={"patience": None}))  # fmt: skip


def duplicated(bench: Bench) -> None:
    rows = bench.rows("sentiment-sst2", "train", 500)
    train, validation = bench.file("sst2-500", rows), bench.file("sst2-copies", rows[:200])
    told(
        bench.run(
            "duplicated", data={"train": train, "validation": validation}, training={"epochs": 3, "learning_rate": 5e-5}
        )
    )


def planted(bench: Bench) -> None:
    drawn = random.Random(0)

    def marked(rows: list[dict[str, Any]], share: dict[str, float]) -> list[dict[str, Any]]:
        made = []
        for row in rows:
            has = drawn.random() < share[row["label"]]
            made.append({**row, "text": f"{TOKEN} {row['text']}" if has else row["text"], "marked": str(int(has))})
        return made

    labels = sorted({row["label"] for row in bench.rows("sentiment-sst2", "train", 50)})
    planted_in, other = labels[-1], labels[0]
    train = bench.file(
        "planted-train", marked(bench.rows("sentiment-sst2", "train", 2000), {planted_in: 0.95, other: 0.0})
    )
    half = {planted_in: 0.5, other: 0.5}
    validation = bench.file("planted-validation", marked(bench.rows("sentiment-sst2", "validation", 400), half))
    test = bench.file("planted-test", marked(bench.rows("sentiment-sst2", "test", 1821), half))
    terms = bench.out / "data" / "terms.txt"
    terms.write_text(f"[token]\n{TOKEN} |\n", encoding="utf-8")
    data = {"train": train, "validation": validation, "test": test}
    how = {"evaluation": {"terms": str(terms)}, "data": data}
    small = {"from": demo.encoder_path(), "layers": [0, 5]}
    teacher = bench.run("planted-teacher", **how)
    plain = bench.run("planted-plain", model=small, training={"learning_rate": 1e-4}, **how)
    distilled = bench.run("planted-distilled", method="distillation", model=small, reference=str(teacher.folder),
                          training={"learning_rate": 1e-4}, **how)  # fmt: skip
    for done in (teacher, plain, distilled):
        found = done.result["bias"]
        groups = found["slices"]["marked"]
        exchanged, words = found["counterfactual"], [w for w in found["words"] if w["word"] == TOKEN]
        accuracy = done.result["metrics"]["test"]["accuracy"]
        odds = f"{groups['equalised_odds']:.3f} {groups['equalised_odds_interval']}"
        print(f"{done.folder.name}: accuracy {accuracy:.3f}; equalised odds of the token {odds}; "
              f"{exchanged['flip_rate']:.3f} {exchanged['interval']} of {exchanged['rows']} answers change without it; "
              f"as a telling word: {words[0]['against'] if words else 'not seen'}", flush=True)  # fmt: skip
    print(json.dumps(comparison.compare([teacher.folder, plain.folder, distilled.folder])["groups"]["equalised_odds"]))


PARTS = {
    "overfitted": overfitted,
    "shuffled": shuffled,
    "duplicated": duplicated,
    "planted": planted,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    bench = Bench(options.data, options.output)
    for part in options.only:
        PARTS[part](bench)


if __name__ == "__main__":
    main()
