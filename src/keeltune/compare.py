"""Several runs of one task side by side, made again from what lies in their folders: `keeltune compare`.

Each domain's rows are the same in all runs, so that runs are compared in pairs, row by row: the same bootstrap draws of
rows for both, McNemar's exact test where a row is right or wrong (and stands alone), and Holm's correction for the
number of runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keeltune import apply, evaluation, recipe, run
from keeltune.analysis.significance import mcnemar
from keeltune.problems import Problem, UserError
from keeltune.results import read_lines
from keeltune.tasks.task import Task

DOMAINS = {"target": "test", "source": "source"}
"""What is compared, and the split of the run folder that shows it."""


@dataclass(frozen=True)
class Side:
    """A run's answers to one domain's rows: each row's score, and the statistics [rows, K] that its metrics sum."""

    scores: list[float]
    statistics: np.ndarray
    clusters: np.ndarray | None


def compare(runs: Sequence[str | Path]) -> dict[str, Any]:
    """The comparison as plain data; the first run is the one that the others are held against.

    {"task", "metric", "higher_is_better", "baseline", "runs": [{"name", "folder", "method", "anchor", "weight",
    "target": {"value", "interval", "rows"}, "source": the same or null, "against": {domain: {"change", "interval",
    "p", "p_holm"}} or null, "pareto", "seconds", "interpolation"}]}. `change` is the run's metric − the first's.
    Raises: UserError: folders without a finished run, of several tasks, or scored on other rows.
    """
    found = [_finished(Path(folder)) for folder in runs]
    _comparable(found)
    tasks = _tasks(found[0])
    domains = {d: s for d, s in DOMAINS.items() if all(_predictions(one, s).is_file() for one in found)}
    sides = {d: [_side(tasks[d], _predictions(one, s)) for one in found] for d, s in domains.items()}
    some = tasks["target"].scores(sides["target"][0].statistics.sum(0))
    metric = next(name for name in tasks["target"].metrics if name in some)  # a loss is in no prediction file
    lines = []
    for place, one in enumerate(found):
        scores = {d: _score(tasks[d], each[place], metric) for d, each in sides.items()}
        against = {d: _against(tasks[d], each[place], each[0], metric) for d, each in sides.items()} if place else None
        lines.append(_line(one, {"target": None, "source": None, **scores}, against))
    _holm(lines)
    higher = metric not in tasks["target"].lower_is_better
    _pareto(lines, 1.0 if higher else -1.0)
    return {
        "task": found[0].result["task"],
        "metric": metric,
        "higher_is_better": higher,
        "baseline": lines[0]["name"],
        "clusters": recipe.load(found[0].folder / "recipe.yaml").evaluation.clusters,
        "runs": lines,
    }


def _predictions(one: run.Run, split: str) -> Path:
    return one.folder / "predictions" / f"{split}.jsonl"


def _tasks(one: run.Run) -> dict[str, Task]:
    """The task as a run has it; on a source domain with labels of its own, as the old head has it."""
    old, task = one.folder / "source_model", apply.open_model(one.folder, None).task
    return {"target": task, "source": apply.open_model(old, one.result["task"]).task if old.is_dir() else task}


def _finished(folder: Path) -> run.Run:
    done = run.finished(folder)
    if done is None or not (folder / "recipe.yaml").is_file():
        raise UserError(Problem(str(folder), "RUN", "no finished run", "a run folder", "name one, or finish it first"))
    return done


def _comparable(runs: Sequence[run.Run]) -> None:
    """UserError where runs were scored on different rows, or are of different tasks."""
    first = runs[0]
    problems = []
    for other in runs[1:]:
        if first.result["task"] != other.result["task"]:
            found, expected = other.result["task"], f"{first.result['task']}, the task of {first.folder}"
            problems.append(Problem(str(other.folder), "task", found, expected, "compare runs of one task"))
        for name in ("model", "source_model"):
            ours, theirs = (_labels(r.folder / name) for r in (first, other))
            if ours != theirs:
                problems.append(
                    Problem(str(other.folder), name, f"the labels {theirs}", f"{ours}, those of {first.folder}",
                            "compare runs with the same labels")
                )  # fmt: skip
        for split in DOMAINS.values():
            ours, theirs = (r.result["data"][split] for r in (first, other))
            if ours and theirs and ours["fingerprint"] != theirs["fingerprint"]:
                found, expected = (
                    f"{theirs['rows']} other rows in {split}",
                    f"the {ours['rows']} rows of {first.folder}",
                )
                problems.append(Problem(str(other.folder), split, found, expected, "score both on the same rows"))
    for one in (one for one in runs if not one.result["data"]["test"]):
        problems.append(Problem(str(one.folder), "test", "nothing", "test rows to compare on", "add data.test"))
    if problems:
        raise UserError(problems)


def _labels(folder: Path) -> list[str] | None:
    """A model's labels, in any order; None where there is no such model, or it has none."""
    file = folder / "config.json"
    names = json.loads(file.read_text(encoding="utf-8")).get("id2label") if file.is_file() else None
    return sorted(names.values()) if names else None


def _side(task: Task, file: Path) -> Side:
    rows = read_lines(file)
    statistics = task.statistics([row["prediction"] for row in rows], [row["gold"] for row in rows])
    return Side(
        [row["score"] for row in rows], statistics, evaluation.clusters_of([row.get("cluster") for row in rows])
    )


def _score(task: Task, side: Side, metric: str) -> dict[str, Any]:
    value = float(task.scores(side.statistics.sum(0))[metric])
    drawn = task.scores(evaluation.bootstrap(side.statistics, clusters=side.clusters))[metric]
    return {"value": value, "interval": list(evaluation.interval(drawn)), "rows": len(side.scores)}


def _against(task: Task, ours: Side, theirs: Side, metric: str) -> dict[str, Any]:
    """The change from `theirs` to `ours`, and how likely one as large is where there is none."""
    both = np.concatenate([ours.statistics, theirs.statistics], axis=1)
    drawn = evaluation.bootstrap(both, clusters=ours.clusters)
    a, b = (task.scores(part)[metric] for part in np.split(drawn, [ours.statistics.shape[1]], axis=1))
    value = task.scores(ours.statistics.sum(0))[metric] - task.scores(theirs.statistics.sum(0))[metric]
    pairs = list(zip(ours.scores, theirs.scores, strict=True))
    if ours.clusters is None and all(score in (0, 1) for pair in pairs for score in pair):
        won, lost = (sum(x > y for x, y in pairs), sum(x < y for x, y in pairs))
        p = mcnemar(lost, won)
    else:
        p = _two_sided(a - b)
    return {"change": float(value), "interval": list(evaluation.interval(a - b)), "p": p}


def _two_sided(drawn: np.ndarray) -> float:
    """Twice the smaller share of draws on one side of 0, with one draw more, so that it is never 0."""
    sides = [(np.sum(drawn <= 0) + 1) / (len(drawn) + 1), (np.sum(drawn >= 0) + 1) / (len(drawn) + 1)]
    return float(min(1.0, 2 * min(sides)))


def _line(one: run.Run, scores: Mapping[str, Any], against: Mapping[str, Any] | None) -> dict[str, Any]:
    made, objective = recipe.load(one.folder / "recipe.yaml"), one.result["objective"]
    return {
        "name": one.folder.name,
        "folder": str(one.folder),
        "method": one.result["method"],
        "anchor": made.objective.anchor_on if objective["weight"] is not None else None,
        "weight": objective["weight"],
        "share": (one.result["budget"] or {}).get("share") or (one.result["interpolation"] or {}).get("kept", 1.0),
        **scores,
        "against": against,
        "seconds": one.result["training"]["seconds"],
        "interpolation": one.result["interpolation"],
    }


def _holm(lines: Sequence[dict[str, Any]]) -> None:
    """Holm 1979: the k-th smallest p of m times m − k + 1, never below an earlier one, at most 1; for each domain."""
    for domain in DOMAINS:
        compared = [line["against"][domain] for line in lines if line["against"] and domain in line["against"]]
        highest = 0.0
        for place, one in enumerate(sorted(compared, key=lambda each: each["p"])):
            highest = max(highest, min(1.0, one["p"] * (len(compared) - place)))
            one["p_holm"] = highest


def _pareto(lines: Sequence[dict[str, Any]], sign: float) -> None:
    """Marks the runs that no other one equals in one domain and beats in the other."""
    points = [[sign * line[d]["value"] for d in DOMAINS if line[d]] for line in lines]
    for line, mine in zip(lines, points, strict=True):
        line["pareto"] = not any(
            all(x >= y for x, y in zip(other, mine, strict=True)) and other != mine for other in points
        )
