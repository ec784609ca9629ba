"""The longer runs, from the recipes in `anchors/`: how good does each family become on all the rows of a data set?

    python benchmarks/anchors.py DATA_FOLDER OUTPUT_FOLDER [NAME …] [--seeds 0 1] [--table]

A recipe's data paths start at the data folder; its output, and the models of other recipes that it starts from or
learns from, lie in the output folder. Names run in the order given, all of them in the order of their dependence; a
finished run is skipped. The table is printed from the runs' results alone; what a teacher is worth is the mean over the
seeds, as the same draws of test rows show it. A teacher is trained with its recipe's seed alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from keeltune import recipe
from keeltune.cli import demo
from keeltune.evaluation import bootstrap
from keeltune.evaluation.scores import metrics_of, table_of
from keeltune.runs import opened_model, run, run_folder
from keeltune.tasks.task import Task
from keeltune.utils.files import read_lines

RECIPES = Path(__file__).parent / "anchors"
SPLITS = ("train", "validation", "test", "unlabeled")


def names() -> list[str]:
    """All recipes, a student after its teacher."""
    return sorted((file.stem for file in RECIPES.glob("*.yaml")), key=lambda name: (name.count("-student"), name))


def folder(out: Path, name: str, seed: int) -> Path:
    return out / (name if seed == 0 else f"{name}-seed-{seed}")


def train(name: str, data: Path, out: Path, seed: int) -> None:
    place = folder(out, name, seed)
    if not run_folder.finished(place):  # a run that was stopped goes on
        values: dict[str, Any] = YAML(typ="safe").load((RECIPES / f"{name}.yaml").read_text("utf-8"))
        for split in set(SPLITS) & values["data"].keys():
            values["data"][split] = str(data / values["data"][split])
        if values["model"] == demo.HUB_MODEL:
            values["model"] = demo.encoder_path()
        values["training"]["seed"], values["output"] = seed, place.name
        run.train(recipe.from_dict(values, out), resume=place.is_dir())


def table(asked: list[str], out: Path, seeds: list[int]) -> None:
    print("| run | test [95 %] | steps | seconds | rows/s | peak GiB |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for place in (folder(out, name, seed) for name in asked for seed in seeds):
        if run_folder.finished(place):
            result = json.loads((place / "result.json").read_text("utf-8"))
            intervals, done = result["intervals"]["test"], result["training"]
            scores = " · ".join(
                f"{metric} {result['metrics']['test'][metric]:.3g} [{low:.3g}, {high:.3g}]"
                for metric, (low, high) in intervals.items()
                if metric not in ("loss", "perplexity")
            )
            print(
                f"| {place.name} | {scores} | {done['steps']} | {done['seconds']:.0f} | "
                f"{done['examples_per_second']:.0f} | {done['peak_memory_bytes'] / 2**30:.1f} |"
            )


def pairs(asked: list[str], out: Path, seeds: list[int]) -> None:
    """What a teacher is worth: each taught student against the same student without, on the same resampled rows."""
    print("\n| taught student | metric | seeds | gain over the plain student, paired bootstrap [95 %] |")
    print("| --- | --- | ---: | --- |")
    for name in asked:
        plain = f"{name.partition('-student-')[0]}-student"
        both = [(folder(out, name, seed), folder(out, plain, seed)) for seed in seeds]
        both = [pair for pair in both if all(run_folder.finished(place) for place in pair)]
        if "-student-" in name and both:
            task = opened_model.open_model(both[0][0], None).task
            metric = task.metrics[0]
            gains = np.mean([scores(a, task)[metric] - scores(b, task)[metric] for a, b in both], axis=0)
            low, high = bootstrap.interval(gains[1:])
            print(f"| {name} | {metric} | {len(both)} | {gains[0]:+.3g} [{low:+.3g}, {high:+.3g}] |")


def scores(place: Path, task: Task) -> dict[str, np.ndarray]:
    """The test metrics, first on all rows, then on each of the same draws of rows."""
    table = table_of(task, read_lines(place / "predictions" / "test.jsonl"))
    return metrics_of(task, np.concatenate([table.sum(0, keepdims=True), bootstrap.bootstrap(table)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("names", nargs="*", choices=[*names(), []], metavar="NAME", help=", ".join(names()))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    asked = options.names or names()
    for name in () if options.table else asked:
        for seed in options.seeds:
            train(name, options.data.resolve(), options.output.resolve(), seed)
    table(asked, options.output, options.seeds)
    pairs(asked, options.output, options.seeds)


if __name__ == "__main__":
    main()
