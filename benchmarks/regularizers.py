"""What each regulariser gains on few labels, beside plain fine-tuning of the same seeds and the same batches.

    python benchmarks/regularizers.py DATA_FOLDER OUTPUT_FOLDER [--only sst2 agnews airline] [--arms plain r-drop ...]
                                      [--seeds 0 1 2] [--rows 400] [--epochs 6] [--test 1200] [--table]

MiniLM on some labels of SST-2 (2 classes), AG News (4) and airline tweets (3). A finished run is skipped and a stopped
one goes on. Each difference is an arm's accuracy minus plain's, in points, then the same for the test loss in nats
(less is better) and the seconds of training as a ratio. A row's answers of all seeds are one cluster of the bootstrap,
the same draws for both; that interval is over test rows, and the list of each seed's own difference shows how much of
it is the seed's. A null is a result and stays in the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import data_sets
import numpy as np

from keeltune import recipe
from keeltune.cli import demo
from keeltune.evaluation import scores
from keeltune.runs import opened_model, run, run_folder
from keeltune.tasks.task import Task
from keeltune.utils.files import read_lines
from keeltune.utils.progress import Display

ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "layer-decay": {"layer_decay": 0.9},
    "r-drop": {"r_drop": 1.0},
    "weight-average": {"weight_average": "auto"},
    "label-smoothing": {"label_smoothing": 0.1},
    "fgm": {"fgm": 0.1},
    "new-top-layers": {"new_top_layers": 1},
    "freeze-embeddings": {"freeze_embeddings": True},
    "r-drop-fgm-average": {"r_drop": 1.0, "fgm": 0.1, "weight_average": "auto"},
}
SETS = {
    "sst2": ("sentiment-analysis", "sentiment-sst2"),
    "agnews": ("text-classification", "topic-agnews"),
    "airline": ("sentiment-analysis", "sentiment-airline"),
}
TRAINING = {"learning_rate": 1e-4, "batch_size": 16}


def trained(name: str, values: dict[str, Any], out: Path, *, trains: bool) -> Path | None:
    """The folder of a run, trained now unless it was before; None where it is not there and nothing is trained."""
    place = out / name
    if trains and not run_folder.finished(place):
        print(f"… {name}", flush=True)
        run.train(recipe.from_dict({**values, "output": name}, out), resume=place.is_dir(), display=Display(quiet=True))
    return place if run_folder.finished(place) else None


def arms_of(name: str, options: argparse.Namespace) -> dict[str, dict[int, Path]]:
    """Each arm's runs by their seed."""
    task, folder = SETS[name]
    source, data = options.data.resolve() / folder, options.output.resolve() / "data" / name
    counts = {"train": options.rows, "validation": max(2, options.rows // 2), "test": options.test}
    files = {split: data_sets.written(data / f"{split}-{count}.jsonl", data_sets.lines(source, split, count))
             for split, count in counts.items()}  # fmt: skip
    found: dict[str, dict[int, Path]] = {}
    for seed in options.seeds:  # seeds outside: an early stop leaves whole pairs
        for arm in options.arms:
            training = {**TRAINING, "epochs": options.epochs, "seed": seed, "regularizers": ARMS[arm]}
            values = {"task": task, "method": "fine-tuning", "model": demo.encoder_path(), "data": files,
                      "max_length": 128, "training": training}  # fmt: skip
            place = trained(
                f"{name}-{options.rows}-{arm}-{seed}", values, options.output.resolve(), trains=not options.table
            )
            if place is not None:
                found.setdefault(arm, {})[seed] = place
    return found


def table_of(task: Task, places: Sequence[Path]) -> np.ndarray:
    """[rows, K + 2]: the sums of each test row over the seeds."""
    read = [read_lines(place / "predictions" / "test.jsonl") for place in places]
    return np.asarray(sum(scores.table_of(task, lines) for lines in read))


def report(name: str, arms: dict[str, dict[int, Path]]) -> None:
    """Each arm beside plain, of the seeds that both have."""
    task = opened_model.open_model(next(iter(arms["plain"].values())), None).task
    metric = task.metrics[0]

    def seconds(places: Sequence[Path]) -> float:
        return sum(json.loads((p / "result.json").read_text("utf-8"))["training"]["seconds"] for p in places)

    def score(places: Sequence[Path], which: str) -> float:
        return float(scores.scores_of(task, table_of(task, places), intervals=False).metrics[which])

    print(f"\n{name}: {metric} on test rows, seeds {', '.join(map(str, arms['plain']))}")
    print(f"| arm | {metric} | beside plain, points [95 %] | of each seed | loss beside plain, nats [95 %] | time |")
    print("| --- | ---: | --- | --- | --- | ---: |")
    for arm, runs in arms.items():
        seeds = [seed for seed in runs if seed in arms["plain"]]
        ours, theirs = [runs[s] for s in seeds], [arms["plain"][s] for s in seeds]
        cells = [f"{100 * score(ours, metric):.1f}"]
        drawn = scores.differences(task, table_of(task, ours), table_of(task, theirs))
        for which, scale, form in ((metric, 100, "+.2f"), ("loss", 1, "+.3f")):
            low, high = np.percentile(scale * drawn[which], [2.5, 97.5])
            gain = scale * (score(ours, which) - score(theirs, which))
            cells.append(f"{gain:{form}} [{low:{form}}, {high:{form}}]")
        each = [100 * (score([a], metric) - score([b], metric)) for a, b in zip(ours, theirs, strict=True)]
        cells.insert(2, ", ".join(f"{value:+.1f}" for value in each))
        print(f"| {arm} | {' | '.join(cells)} | {seconds(ours) / seconds(theirs):.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(SETS), default=["sst2", "agnews"])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=400, help="labelled training rows")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--test", type=int, default=1200, help="test rows")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    options.arms = list(dict.fromkeys(["plain", *options.arms]))
    for name in options.only:
        arms = arms_of(name, options)
        if "plain" in arms:
            report(name, arms)


if __name__ == "__main__":
    main()
