"""What the defaults cost beside a search: a recipe of five lines and a grid of rates and epochs, on eight data sets.

    python benchmarks/defaults.py DATA_FOLDER OUTPUT_FOLDER [--only clinc-10 amazon ...] [--grid | --table]

Each set is cut to few rows, so that all of it takes two quiet cores forty minutes with MiniLM. The recipe names task,
method, model, rows and output, and how long a text may be, nothing else. The grid is three rates times three numbers of
epochs on all training rows, each run to its end; its best run is picked on the very test rows that score it, which
flatters it: what is left between the two is at most what a search would have brought. The difference is drawn with the
same rows for both. A finished run is skipped; `--grid` makes those of the grid alone, `--table` only prints. What the
table is made of is written to `OUTPUT_FOLDER/defaults.json`; that of docs/results.md lies beside this file.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import data_sets

from keeltune import recipe
from keeltune.cli import demo
from keeltune.runs import comparison, run_folder
from keeltune.runs.run import train
from keeltune.utils.files import write_json
from keeltune.utils.progress import Display

RATES = (5e-5, 2e-4, 5e-4)


@dataclass(frozen=True)
class Cut:
    """What is taken of a data set: rows drawn by chance of its training and test rows."""

    folder: str
    task: str
    train: int
    test: int
    max_length: int
    epochs: tuple[int, ...]
    labels: int | None = None
    longest: int | None = None
    """Characters of a context; longer ones are left out."""


SMALL, LARGE = (3, 10, 30), (1, 3, 10)
SETS = {
    "clinc-10": Cut("intent-clinc150", "text-classification", 400, 300, 32, SMALL, labels=10),
    "amazon": Cut("sentiment-amazon", "sentiment-analysis", 300, 350, 48, SMALL),
    "airline": Cut("sentiment-airline", "sentiment-analysis", 200, 400, 48, SMALL),
    "srl-reviews": Cut("srl-ewt-reviews", "semantic-role-labeling", 300, 300, 64, SMALL),
    "clinc-150": Cut("intent-clinc150", "text-classification", 2250, 750, 32, LARGE),
    "sst2": Cut("sentiment-sst2", "sentiment-analysis", 1500, 600, 48, LARGE),
    "agnews": Cut("topic-agnews", "text-classification", 1500, 500, 64, LARGE),
    "qa-wiki": Cut("qa-wiki", "question-answering", 1500, 300, 128, LARGE, longest=450),
}


class Bench:
    """Where data and runs lie, and how a run is made once."""

    def __init__(self, data: Path, out: Path):
        self.data, self.out = data.resolve(), out.resolve()
        self.encoder = demo.encoder_path()

    def file(self, name: str, split: str) -> str:
        """The rows of a set, drawn once; of a set with fewer labels those of the first ones by name."""
        place, cut = self.out / "data" / f"{name}-{split}.jsonl", SETS[name]
        if not place.is_file():
            rows = data_sets.rows(self.data / cut.folder, split)
            if cut.labels:
                kept = sorted({row["label"] for row in rows} - {"oos"})[: cut.labels]
                rows = [row for row in rows if row["label"] in kept]
            if cut.longest:
                rows = [row for row in rows if len(row["context"]) <= cut.longest]
            rows = [{key: value for key, value in row.items() if key != "domain"} for row in rows]
            random.Random(0).shuffle(rows)
            data_sets.written(place, rows[: getattr(cut, split)])
        return str(place)

    def run(self, name: str, made: str, **spec: Any) -> run_folder.Run:
        """A run of a set; trained now unless it was before."""
        folder, cut = self.out / f"{name}-{made}", SETS[name]
        if (done := run_folder.finished(folder)) is not None:
            return done
        print(f"… {folder.name}", flush=True)
        data = {split: self.file(name, split) for split in ("train", "test")} | spec.pop("data", {})
        values = {"task": cut.task, "method": "fine-tuning", "model": self.encoder, "data": data, "output": str(folder)}
        made_of = recipe.from_dict({**values, "max_length": cut.max_length, **spec}, self.out)
        return train(made_of, overwrite=folder.is_dir(), display=Display(quiet=True))

    def grid(self, name: str) -> Iterator[run_folder.Run]:
        """Every cell's run: a rate and a number of epochs, all rows, no validation, to the end."""
        for epochs, rate in product(SETS[name].epochs, RATES):
            training = {"learning_rate": rate, "epochs": epochs}
            yield self.run(name, f"{rate:g}-{epochs}", data={"validation": None}, training=training)


def figures(bench: Bench, name: str) -> dict[str, Any]:
    """What the table says of a set: the default's and each cell's test score, and the difference to the best cell."""
    default, cells = bench.run(name, "default"), list(bench.grid(name))
    card = comparison.compare([str(run.folder) for run in (*cells, default)])
    sign = 1 if card["higher_is_better"] else -1
    lines = {line["name"]: line["target"] for line in card["runs"]}
    scores = {run.folder.name.removeprefix(f"{name}-"): lines[run.folder.name]["value"] for run in cells}
    best = max(scores, key=lambda cell: sign * scores[cell])
    pair = comparison.compare([str(bench.out / f"{name}-{best}"), str(default.folder)])["runs"][1]
    kept = default.result
    return {
        "metric": card["metric"], "train": SETS[name].train, "test": SETS[name].test,
        "default": pair["target"]["value"], "best": {"cell": best, "value": scores[best]}, "cells": scores,
        "difference": pair["against"]["target"], "steps": kept["training"]["steps"],
        "seconds": {"default": kept["training"]["seconds"],
                    "grid": sum(run.result["training"]["seconds"] for run in cells)},
        "verdict": (kept["overfitting"] or {}).get("verdict"), "chosen": kept.get("defaults"),
    }  # fmt: skip


def table(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The page's table, in Markdown."""
    yield "| data | rows | metric | default | best of the grid (rate, epochs) | difference, 95 % | steps |"
    yield "| --- | ---: | --- | ---: | --- | ---: | ---: |"
    for name, of in found.items():
        (rate, _, epochs), change = of["best"]["cell"].rpartition("-"), of["difference"]
        low, high = (100 * end for end in change["interval"])
        yield (
            f"| {name} | {of['train']} | {of['metric']} | {100 * of['default']:.1f} | {100 * of['best']['value']:.1f} "
            f"({rate}, {epochs}) | {100 * change['change']:+.1f} [{low:+.1f}, {high:+.1f}] | {of['steps']} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--grid", action="store_true")
    what.add_argument("--table", action="store_true")
    options = parser.parse_args()
    bench, file = Bench(options.data, options.output), options.output / "defaults.json"
    if options.grid:
        for name in options.only:
            for run in bench.grid(name):
                print(run.folder.name, run.result["metrics"]["test"], flush=True)
        return
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if not options.table:
        for name in options.only:
            found[name] = figures(bench, name)
            write_json(file, found)
    for line in table({name: found[name] for name in options.only if name in found}):
        print(line, flush=True)


if __name__ == "__main__":
    main()
