"""Are the intervals and the paired tests honest? Real predictions, resampled, where the truth is known.

    python benchmarks/honesty.py RUN RUN … [--rows 200] [--trials 1000]

A run's test predictions are the population, its score on all of them the truth. Each trial draws `--rows` of them with
replacement and makes the 95 % interval as keeltune does; the share of intervals that hold the truth should be 0.95.
For the paired tests each row's answers of two runs (the first two that were scored on the same rows) are swapped at
random, so that neither is better: the share of p ≤ 0.05 is the false alarm, which should be 0.05 at most.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from keeltune.evaluation import bootstrap
from keeltune.evaluation.scores import metrics_of, scores_of, table_of
from keeltune.runs import comparison, opened_model
from keeltune.utils.files import read_lines


def coverage(folder: Path, rows: int, trials: int) -> list[str]:
    """A line for each metric: how often the interval holds the truth, and how often it lies on either side."""
    task = opened_model.open_model(folder, None).task
    table = table_of(task, read_lines(folder / "predictions" / "test.jsonl"))
    truth = scores_of(task, table, intervals=False).metrics
    drawn = np.random.default_rng(0)
    below, above = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for trial in range(trials):
        sample = table[drawn.integers(len(table), size=rows)]
        sums = bootstrap.bootstrap(sample, seed=trial)
        for name, values in metrics_of(task, sums).items():
            low, high = bootstrap.interval(values)
            below[name] += high < truth[name] - 1e-12
            above[name] += low > truth[name] + 1e-12
    return [
        f"| {folder.name} | {name} | {len(table)} | {value:.4f} | {1 - (below[name] + above[name]) / trials:.3f} | "
        f"{below[name] / trials:.3f} | {above[name] / trials:.3f} |"
        for name, value in truth.items()
        if np.isfinite(value)  # a run of an older version has no losses in its prediction files
    ]


def false_alarms(one: Path, other: Path, rows: int, trials: int) -> str:
    """How often the paired test sees a difference where answers were swapped at random."""
    task = opened_model.open_model(one, None).task
    lines = [read_lines(folder / "predictions" / "test.jsonl") for folder in (one, other)]
    tables = [table_of(task, each) for each in lines]
    scores = [np.array([line["score"] for line in each]) for each in lines]
    drawn, alarms = np.random.default_rng(1), 0
    for _ in range(trials):
        chosen, swap = drawn.integers(len(tables[0]), size=rows), drawn.random(rows) < 0.5
        sides = [
            comparison.Side(
                list(np.where(swap, scores[1 - i][chosen], scores[i][chosen])),
                [np.where(swap[:, None], tables[1 - i][chosen], tables[i][chosen])],
                None,
            )
            for i in (0, 1)
        ]
        alarms += comparison.against(task, sides[0], sides[1], task.metrics[0])["p"] <= 0.05
    exact = all(score in (0, 1) for each in scores for score in each)
    return f"| {one.name} beside {other.name} | {'McNemar' if exact else 'bootstrap'} | {alarms / trials:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--trials", type=int, default=1000)
    options = parser.parse_args()
    print(f"| run | metric | rows in all | truth | covered, samples of {options.rows} | interval below | above |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for folder in options.runs:
        print("\n".join(coverage(folder, options.rows, options.trials)), flush=True)
    keys: dict[tuple[str, ...], Path] = {}
    print("\n| runs whose answers are swapped | test | p ≤ 0.05 |\n| --- | --- | ---: |")
    for folder in options.runs:
        rows = tuple(line["key"] for line in read_lines(folder / "predictions" / "test.jsonl"))
        if rows in keys:
            print(false_alarms(keys.pop(rows), folder, options.rows, options.trials), flush=True)
        else:
            keys[rows] = folder


if __name__ == "__main__":
    main()
