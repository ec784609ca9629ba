"""The longer runs, from the recipes in `anchors/`: how good does each family become on all the rows of a data set?

    python benchmarks/anchors.py DATA_FOLDER OUTPUT_FOLDER [NAME …] [--table]

A recipe's data paths start at the data folder; its output, and the models of other recipes that it starts from or
learns from, lie in the output folder. Names run in the order given, all of them in the order of their dependence; a
finished run is skipped. The table is printed from the runs' results alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from keeltune import apply, demo, evaluation, recipe, run
from keeltune.tasks.task import Task

RECIPES = Path(__file__).parent / "anchors"
SPLITS = ("train", "validation", "test", "unlabeled")


def names() -> list[str]:
    """All recipes, a student after its teacher."""
    return sorted((file.stem for file in RECIPES.glob("*.yaml")), key=lambda name: (name.count("-student"), name))


def train(name: str, data: Path, out: Path) -> None:
    if not run.finished(out / name):  # a run that was stopped goes on
        values: dict[str, Any] = YAML(typ="safe").load((RECIPES / f"{name}.yaml").read_text("utf-8"))
        for split in set(SPLITS) & values["data"].keys():
            values["data"][split] = str(data / values["data"][split])
        if values["model"] == demo.HUB_MODEL:
            values["model"] = demo.encoder_path()
        run.train(recipe.from_dict(values, out), resume=(out / name).is_dir())


def table(asked: list[str], out: Path) -> None:
    print("| run | test [95 %] | steps | seconds | rows/s | peak GiB |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name in asked:
        if run.finished(out / name):
            result = json.loads((out / name / "result.json").read_text("utf-8"))
            intervals, done = result["intervals"]["test"], result["training"]
            scores = " · ".join(
                f"{metric} {result['metrics']['test'][metric]:.3g} [{low:.3g}, {high:.3g}]"
                for metric, (low, high) in intervals.items()
                if metric not in ("loss", "perplexity")
            )
            print(
                f"| {name} | {scores} | {done['steps']} | {done['seconds']:.0f} | {done['examples_per_second']:.0f} | "
                f"{done['peak_memory_bytes'] / 2**30:.1f} |"
            )


def pairs(asked: list[str], out: Path) -> None:
    """What a teacher is worth: each taught student against the same student without, on the same resampled rows."""
    print("\n| taught student | metric | gain over the plain student, paired bootstrap [95 %] |\n| --- | --- | --- |")
    for name in asked:
        plain = f"{name.partition('-student-')[0]}-student"
        if "-student-" in name and run.finished(out / name) and run.finished(out / plain):
            task = apply.open_model(out / name, None).task
            ours, theirs = (scores(out / run, task) for run in (name, plain))
            metric = task.metrics[0]
            gains = ours[metric] - theirs[metric]
            low, high = np.percentile(gains[1:], [2.5, 97.5])
            print(f"| {name} | {metric} | {gains[0]:+.3g} [{low:+.3g}, {high:+.3g}] |")


def scores(folder: Path, task: Task) -> dict[str, np.ndarray]:
    """The test metrics, first on all rows, then on each of the same draws of rows."""
    lines = (folder / "predictions" / "test.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    statistics = task.statistics([row["prediction"] for row in rows], [row["gold"] for row in rows])
    return task.scores(np.concatenate([statistics.sum(0, keepdims=True), evaluation.bootstrap(statistics)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("names", nargs="*", choices=[*names(), []], metavar="NAME", help=", ".join(names()))
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    asked = options.names or names()
    for name in () if options.table else asked:
        train(name, options.data.resolve(), options.output.resolve())
    table(asked, options.output)
    pairs(asked, options.output)


if __name__ == "__main__":
    main()
