"""Several runs of one task side by side, made again from what lies in their folders: `keeltune compare`.

Each domain's rows are the same in all runs, so that runs are compared in pairs, row by row: the same bootstrap draws of
rows for both, McNemar's exact test where a row is right or wrong (and stands alone), and Holm's correction for the
number of runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from keeltune import recipe
from keeltune.data.clusters import clusters_of
from keeltune.evaluation import bootstrap
from keeltune.evaluation.bootstrap import mcnemar
from keeltune.evaluation.intervals import intervals, metrics_of
from keeltune.evaluation.scores import scores_of
from keeltune.models import sealed_model
from keeltune.recipe import fields
from keeltune.runs import digests, efficiency, opened_model, prediction_file, recipe_differences, run_folder
from keeltune.tasks.task import Task
from keeltune.utils.errors import Problem, UserError, shown
from keeltune.utils.json import read_json
from keeltune.utils.messages import languages

DOMAINS = {"target": "test", "source": "source"}
"""What is compared, and the split of the run folder that shows it."""


@dataclass(frozen=True)
class Side:
    """A run's answers to one domain's rows: each row's score, and the tables [rows, K + 2] that its metrics sum.

    Of several seeds one table each: a metric is their mean, and what is drawn again is rows.
    """

    scores: list[float]
    tables: list[np.ndarray]
    clusters: np.ndarray | None


def compare(runs: Sequence[str | Path], language: str | None = None, *, task: str | None = None) -> dict[str, Any]:
    """The comparison as plain data; the first run is the baseline of the others.

    `language`: that of the page, `en` or `zh`; None: the runs' own where they agree, else English. `task`: needed for
    runs of a task from another package, which no folder is taken at its word for.
    {"task", "language", "metric", "higher_is_better", "baseline", "runs": [{"name", "folder", "method", "anchor",
    "weight", "teacher": whether it had one, "target": {"value", "interval", "rows"}, "source": the same or null,
    "against": {domain: {"change", "interval", "p", "p_holm"}} or null, "pareto", "seconds", "interpolation", and
    `efficiency.SIZES`}], "recipes": `recipe_differences.differing`, "trade_off": `efficiency.trade_off`, "groups":
    `_groups`}. `change` is the run's metric − the first's.
    Raises: UserError: folders without a finished run, of several tasks, or scored on other rows; another language.
    """
    if language not in (None, *languages()):
        raise UserError(
            Problem("the call", "--language", shown(language), " or ".join(languages()), "name one of them")
        )
    finished = [_finished(Path(folder)) for folder in runs]
    _comparable(finished)
    recipes = [recipe.load(run.folder / "recipe.yaml") for run in finished]
    page_languages = {loaded.report.language for loaded in recipes}
    tasks = opened_model.tasks_of(finished[0].parts[0], task)
    domains = {d: s for d, s in DOMAINS.items() if all(f.is_file() for run in finished for f in _predictions(run, s))}
    if lacking := [f for run in finished for f in _predictions(run, DOMAINS["target"]) if not f.is_file()]:
        expected = "the predictions that the run wrote"
        raise UserError(Problem(str(lacking[0]), "", "no such file", expected, "copy the run folder again"))
    for run in finished:
        for part in run.parts:
            digests.refuse_changed(part, [f"predictions/{split}.jsonl" for split in domains.values()])
    sides = {
        d: [_side(tasks[d], _predictions(run, s), (run.result["data"][s] or {}).get("rows", 0)) for run in finished]
        for d, s in domains.items()
    }
    sides = {domain: _with_same_clusters(of_domain) for domain, of_domain in sides.items()}
    metric = tasks["target"].metrics[0]
    names, lines = _names([run.folder for run in finished]), []
    for index, run in enumerate(finished):
        scores = {d: _score(tasks[d], of_domain[index], metric) for d, of_domain in sides.items()}
        changes = (
            {d: against(tasks[d], of_domain[index], of_domain[0], metric) for d, of_domain in sides.items()}
            if index
            else None
        )
        lines.append(_line(names[index], run, recipes[index], {"target": None, "source": None, **scores}, changes))
    _holm(lines)
    higher = metric not in tasks["target"].lower_is_better
    sign = 1.0 if higher else -1.0
    _pareto(lines, sign)
    return {
        "task": finished[0].result["task"],
        "language": language or (page_languages.pop() if len(page_languages) == 1 else "en"),
        "metric": metric,
        "higher_is_better": higher,
        "baseline": lines[0]["name"],
        "clusters": recipes[0].evaluation.clusters,
        "runs": lines,
        "recipes": recipe_differences.differing([run.folder for run in finished]),
        "trade_off": efficiency.trade_off(lines, sign),
        "groups": _groups(finished),
    }


def _groups(runs: Sequence[run_folder.Run]) -> dict[str, Any]:
    """How the runs serve the same groups of rows, side by side; what one of them lacks is left out.

    {"slices": {column: {value: {"rows", "values": [score a run], "small"}}}, "gap": {column: [best − worst a run]},
    "equalised_odds": the same, "flip_rate": [a run] or null, "ece": [a run] or null}; of several seeds the best one's.
    """
    parts = [run_folder.finished(run.parts[run.best]) or run for run in runs]
    reports = [report for part in parts if (report := part.result.get("bias"))]
    compared: dict[str, Any] = {"slices": {}, "gap": {}, "equalised_odds": {}, "flip_rate": None, "ece": None}
    if len(reports) == len(runs):
        for column in reports[0]["slices"]:
            if all(column in report["slices"] for report in reports):
                _add_column(compared, column, [report["slices"][column] for report in reports])
        if all(report["counterfactual"] for report in reports):
            compared["flip_rate"] = [report["counterfactual"]["flip_rate"] for report in reports]
    calibrations = [(part.result.get("calibration") or {}).get("test") for part in parts]
    if all(calibrations):
        compared["ece"] = [calibration["ece"] for calibration in calibrations if calibration]
    return compared


def _add_column(compared: dict[str, Any], column: str, slices: Sequence[Mapping[str, Any]]) -> None:
    """One column's groups of rows, of all runs."""
    groups = [of_run["groups"] for of_run in slices]
    compared["slices"][column] = {
        value: {"rows": group["rows"], "values": [of_run[value]["value"] for of_run in groups], "small": group["small"]}
        for value, group in groups[0].items()
        if all(value in of_run for of_run in groups)
    }
    for name in ("gap", "equalised_odds"):
        values = [of_run[name] for of_run in slices]
        if all(value is not None for value in values):
            compared[name][column] = values


def _predictions(run: run_folder.Run, split: str) -> list[Path]:
    return [part / "predictions" / f"{split}.jsonl" for part in run.parts]


def _finished(folder: Path) -> run_folder.Run:
    run = run_folder.finished(folder)
    if run is None or not (folder / "recipe.yaml").is_file():
        raise UserError(Problem(str(folder), "RUN", "no finished run", "a run folder", "name one, or finish it first"))
    for name in ("model", "source_model"):  # whose labels are compared; the first one's make the task
        sealed_model.refuse_changed(str(run.parts[0] / name), str(folder), name)
    return run


def _comparable(runs: Sequence[run_folder.Run]) -> None:
    """UserError where runs were scored on different rows, or are of different tasks."""
    first = runs[0]
    problems = []
    for other in runs[1:]:
        if first.result["task"] != other.result["task"]:
            found, expected = other.result["task"], f"{first.result['task']}, the task of {first.folder}"
            problems.append(Problem(str(other.folder), "task", found, expected, "compare runs of one task"))
        for name in ("model", "source_model"):
            expected_labels, labels = (_labels(run.parts[0] / name) for run in (first, other))
            if labels != expected_labels:
                expected = f"{expected_labels}, those of {first.folder}"
                problems.append(
                    Problem(str(other.folder), name, f"the labels {labels}", expected,
                            "compare runs with the same labels")
                )  # fmt: skip
        for split in DOMAINS.values():
            expected_rows, rows = (run.result["data"][split] for run in (first, other))
            if expected_rows and rows and rows["fingerprint"] != expected_rows["fingerprint"]:
                found = f"{rows['rows']} other rows in {split}"
                expected = f"the {expected_rows['rows']} rows of {first.folder}"
                problems.append(Problem(str(other.folder), split, found, expected, "score both on the same rows"))
    for run in (run for run in runs if not run.result["data"]["test"]):
        problems.append(Problem(str(run.folder), "test", "nothing", "test rows to compare on", "add data.test"))
    if problems:
        raise UserError(problems)


def _labels(folder: Path) -> list[str] | None:
    """A model's labels, in any order; None where there is no such model, or it has none."""
    file = folder / "config.json"
    names = read_json(file, kind=dict, infinity=True).get("id2label") if file.is_file() else None
    return sorted(map(str, names.values())) if isinstance(names, dict) and names else None


def _side(task: Task, files: Sequence[Path], rows: int) -> Side:
    seeds = [prediction_file.scored_lines(task, file, rows) for file in files]
    clusters = clusters_of([line.get("cluster") for line in seeds[0][0]])
    scores = [
        sum(line["score"] for line in same) / len(same) for same in zip(*(lines for lines, _ in seeds), strict=True)
    ]
    return Side(scores, [table for _, table in seeds], clusters)


def _with_same_clusters(sides: Sequence[Side]) -> list[Side]:
    """The same rows in the clusters that one of the runs names, so that a draw takes the same ones of all."""
    clusters = next((side.clusters for side in sides if side.clusters is not None), None)
    return [replace(side, clusters=clusters) for side in sides]


def _value(task: Task, side: Side, metric: str) -> float:
    values = [scores_of(task, table, intervals=False).metrics[metric] for table in side.tables]
    return float(np.mean(values))


def _resampled(task: Task, side: Side, metric: str) -> np.ndarray:
    """The metric on each draw of rows; the same draws for every side of the same rows."""
    resampled = [bootstrap.bootstrap(table, clusters=side.clusters) for table in side.tables]
    return np.mean([metrics_of(task, sums)[metric] for sums in resampled], axis=0)


def _score(task: Task, side: Side, metric: str) -> dict[str, Any]:
    units = len(side.scores) if side.clusters is None else int(side.clusters.max()) + 1
    interval = intervals(task, side.tables, {metric: _resampled(task, side, metric)}, units)[metric]
    return {"value": _value(task, side, metric), "interval": list(interval), "rows": len(side.scores)}


def against(task: Task, side: Side, baseline: Side, metric: str) -> dict[str, Any]:
    """The change from `baseline` to `side`, and how likely one as large is where there is none.

    McNemar's test where rows stand alone, are right or wrong, and the metric is the share of right ones.
    """
    resampled = _resampled(task, side, metric) - _resampled(task, baseline, metric)
    pairs = list(zip(side.scores, baseline.scores, strict=True))
    share = all(math.isclose(_value(task, one, metric), float(np.mean(one.scores))) for one in (side, baseline))
    if share and side.clusters is None and all(score in (0, 1) for pair in pairs for score in pair):
        won, lost = (sum(x > y for x, y in pairs), sum(x < y for x, y in pairs))
        p = mcnemar(lost, won)
    else:
        p = _two_sided(resampled)
    change = _value(task, side, metric) - _value(task, baseline, metric)
    return {"change": change, "interval": list(bootstrap.interval(resampled)), "p": p}


def _two_sided(resampled: np.ndarray) -> float:
    """Twice the smaller share of draws on one side of 0, with one draw more, so that it is never 0."""
    resampled = resampled[~np.isnan(resampled)]
    sides = [(np.sum(resampled <= 0) + 1) / (len(resampled) + 1), (np.sum(resampled >= 0) + 1) / (len(resampled) + 1)]
    return float(min(1.0, 2 * min(sides)))


def _names(folders: Sequence[Path]) -> list[str]:
    """The runs' names: the ends of their paths, as long as it takes to tell them apart."""
    different = len({folder.resolve() for folder in folders})
    for length in range(1, max(len(folder.resolve().parts) for folder in folders) + 1):
        names = ["/".join(folder.resolve().parts[-length:]) for folder in folders]
        if len(set(names)) == different:
            break
    return names


def _line(
    name: str, run: run_folder.Run, loaded: fields.Recipe, scores: Mapping[str, Any], against: Mapping[str, Any] | None
) -> dict[str, Any]:
    objective = run.result["objective"]
    return {
        "name": name,
        "folder": str(run.folder),
        "method": run.result["method"],
        "anchor": loaded.objective.anchor_on if objective["weight"] is not None else None,
        "weight": objective["weight"],
        "teacher": loaded.has_teacher,
        "share": (run.result["budget"] or {}).get("share", (run.result["interpolation"] or {}).get("kept", 1.0)),
        **scores,
        "against": against,
        "seconds": run.result["training"]["seconds"],
        "interpolation": run.result["interpolation"],
        **efficiency.sizes(run.result),
    }


def _holm(lines: Sequence[dict[str, Any]]) -> None:
    """Holm 1979: the k-th smallest p of m times m − k + 1, never below an earlier one, at most 1; for each domain."""
    for domain in DOMAINS:
        changes = [line["against"][domain] for line in lines if line["against"] and domain in line["against"]]
        highest = 0.0
        for rank, change in enumerate(sorted(changes, key=lambda change: change["p"])):
            highest = max(highest, min(1.0, change["p"] * (len(changes) - rank)))
            change["p_holm"] = highest


def _pareto(lines: Sequence[dict[str, Any]], sign: float) -> None:
    """Marks the runs that no other one equals in one domain and beats in the other."""
    points = [[sign * line[d]["value"] for d in DOMAINS if line[d]] for line in lines]
    for line, point in zip(lines, points, strict=True):
        line["pareto"] = not any(
            all(x >= y for x, y in zip(other, point, strict=True)) and other != point for other in points
        )
