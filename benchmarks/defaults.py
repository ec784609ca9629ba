"""What the defaults cost beside a search: a recipe of five lines and a grid of rates and epochs, on eight data sets.

    python benchmarks/defaults.py DATA_FOLDER OUTPUT_FOLDER [--only clinc-10 amazon ...] [--table]

Each set is cut to few rows, so that all of it takes two quiet cores with MiniLM some eighty minutes in float32, and
twenty in bf16. The recipe names task, method, model, rows and output, and how long a text may be, nothing else. The
grid is three rates times two numbers of epochs on all training rows, each run to its end; its best run is picked on
the very test rows that score it, which flatters it: what is left between the two is at most what a search would have
brought. The difference is drawn with the same rows for both. What a search brings is beside it: the cell that one half
of the test rows picks, scored on the other half, over a thousand halvings. Cheap runs come first, and a finished one is
skipped; `--table` takes what is finished, and trains nothing. What the table is made of is written to
`OUTPUT_FOLDER/defaults.json`; that of docs/results.md lies beside this file.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import data_sets
import numpy as np

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


SMALL, LARGE = (3, 10), (1, 3)
SETS = {
    "clinc-10": Cut("intent-clinc150", "text-classification", 400, 300, 32, SMALL, labels=10),
    "amazon": Cut("sentiment-amazon", "sentiment-analysis", 300, 350, 48, SMALL),
    "airline": Cut("sentiment-airline", "sentiment-analysis", 200, 400, 48, SMALL),
    "srl-reviews": Cut("srl-ewt-reviews", "semantic-role-labeling", 300, 300, 64, SMALL),
    "clinc-150": Cut("intent-clinc150", "text-classification", 1500, 600, 32, LARGE),
    "sst2": Cut("sentiment-sst2", "sentiment-analysis", 1000, 500, 48, LARGE),
    "agnews": Cut("topic-agnews", "text-classification", 600, 400, 64, LARGE),
    "qa-wiki": Cut("qa-wiki", "question-answering", 300, 300, 176, LARGE, longest=600),
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

    def cell(self, name: str, rate: float, epochs: int) -> run_folder.Run:
        """A run of the grid: a rate and a number of epochs, all rows, no validation, to the end."""
        training = {"learning_rate": rate, "epochs": epochs}
        return self.run(name, f"{rate:g}-{epochs}", data={"validation": None}, training=training)

    def finished(self, name: str) -> tuple[run_folder.Run | None, list[run_folder.Run]]:
        """A set's run of the defaults, and those of its grid, as far as they are there."""
        cells = [f"{rate:g}-{epochs}" for epochs, rate in product(SETS[name].epochs, RATES)]
        found = {made: run_folder.finished(self.out / f"{name}-{made}") for made in ("default", *cells)}
        return found["default"], [run for made in cells if (run := found[made]) is not None]


def train_all(bench: Bench, names: Sequence[str]) -> None:
    """Every run, those of few epochs first."""
    for name in names:
        bench.run(name, "default")
    for level, rate in product(range(2), RATES):
        for name in names:
            bench.cell(name, rate, SETS[name].epochs[level])


def figures(bench: Bench, name: str) -> dict[str, Any] | None:
    """What the table says of a set: the default's and each cell's test score, and the difference to the best cell."""
    default, cells = bench.finished(name)
    if default is None or not cells:
        return None
    card = comparison.compare([str(run.folder) for run in (*cells, default)])
    sign = 1 if card["higher_is_better"] else -1
    scores = {run.folder.name.removeprefix(f"{name}-"): line["target"]["value"]
              for run, line in zip(cells, card["runs"], strict=False)}  # fmt: skip
    best = max(scores, key=lambda cell: sign * scores[cell])
    pair = comparison.compare([str(bench.out / f"{name}-{best}"), str(default.folder)])["runs"][1]
    result = default.result
    searched = by_halves(default, cells)
    return {
        "metric": card["metric"], "train": SETS[name].train, "test": SETS[name].test,
        "default": pair["target"]["value"], "best": {"cell": best, "value": scores[best]}, "cells": scores,
        "difference": pair["against"]["target"], "searched": searched, "steps": result["training"]["steps"],
        "seconds": {"default": result["training"]["seconds"],
                    "grid": sum(run.result["training"]["seconds"] for run in cells)},
        "verdict": (result["overfitting"] or {}).get("verdict"), "chosen": result["defaults"],
    }  # fmt: skip


def by_halves(default: run_folder.Run, cells: Sequence[run_folder.Run], halvings: int = 1000) -> float | None:
    """The default's mean score less that of the cell that the other half of the test rows picks, over many halvings;
    None where a score is no mean of its rows' scores."""
    scored = [row_scores(run) for run in (default, *cells)]
    if any(one is None for one in scored):
        return None
    scores, drawn = np.array(scored), np.random.default_rng(0)
    differences = []
    for _ in range(halvings):
        picking, scoring = np.array_split(drawn.permutation(scores.shape[1]), 2)
        picked = 1 + scores[1:, picking].mean(1).argmax()
        differences.append(scores[0, scoring].mean() - scores[picked, scoring].mean())
    return float(np.mean(differences))


def row_scores(run: run_folder.Run) -> list[float] | None:
    """The score of each test row, by the rows' keys; None where the run's score is not their mean."""
    lines = (run.folder / "predictions" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    by_key = {line["key"]: line["score"] for line in map(json.loads, lines)}
    scores = [by_key[key] for key in sorted(by_key)]
    test = run.result["metrics"]["test"]
    mean = float(np.mean(scores))
    return scores if any(abs(value - mean) < 1e-6 for value in test.values() if isinstance(value, float)) else None


def table(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The page's table, in Markdown."""
    yield "| data | rows | steps | metric | default | best of the grid (rate, epochs; cells) | difference, 95 % | \
to the cell of other rows |"
    yield "| --- | ---: | ---: | --- | ---: | --- | ---: | ---: |"
    for name, of in found.items():
        rate, epochs = of["best"]["cell"].rsplit("-", 1)
        change = of["difference"]
        low, high = (100 * end for end in change["interval"])
        searched = "–" if of["searched"] is None else f"{100 * of['searched']:+.1f}"
        yield (
            f"| {name} | {of['train']} | {of['steps']} | {of['metric']} | {100 * of['default']:.1f} | "
            f"{100 * of['best']['value']:.1f} ({rate}, {epochs}; {len(of['cells'])}) | "
            f"{100 * change['change']:+.1f} [{low:+.1f}, {high:+.1f}] | {searched} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    bench = Bench(options.data, options.output)
    if not options.table:
        train_all(bench, options.only)
    found = {name: of for name in SETS if (of := figures(bench, name)) is not None}
    write_json(bench.out / "defaults.json", found)
    for line in table(found):
        print(line, flush=True)


if __name__ == "__main__":
    main()
