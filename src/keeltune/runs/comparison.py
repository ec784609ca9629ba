"""Several runs of one task side by side, made again from what lies in their folders: `keeltune compare`.

Each domain's rows are the same in all runs, so that runs are compared in pairs, row by row: the same bootstrap draws of
rows for both, McNemar's exact test where a row is right or wrong (and stands alone), and Holm's correction for the
number of runs.
"""

from __future__ import annotations

import json
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
from keeltune.evaluation.scores import metrics_of, scores_of, table_of
from keeltune.recipe import fields
from keeltune.runs import opened_model, run_folder
from keeltune.tasks.task import Task
from keeltune.utils.errors import Problem, UserError, shown
from keeltune.utils.files import read_lines
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


def compare(runs: Sequence[str | Path], language: str | None = None) -> dict[str, Any]:
    """The comparison as plain data; the first run is the one that the others are held against.

    `language`: that of the page, `en` or `zh`; None: the runs' own where they agree, else English.
    {"task", "language", "metric", "higher_is_better", "baseline", "runs": [{"name", "folder", "method", "anchor",
    "weight", "target": {"value", "interval", "rows"}, "source": the same or null, "against": {domain: {"change",
    "interval", "p", "p_holm"}} or null, "pareto", "seconds", "interpolation"}], "groups": `_groups`}. `change` is the
    run's metric − the first's.
    Raises: UserError: folders without a finished run, of several tasks, or scored on other rows; another language.
    """
    if language not in (None, *languages()):
        raise UserError(
            Problem("the call", "--language", shown(language), " or ".join(languages()), "name one of them")
        )
    found = [_finished(Path(folder)) for folder in runs]
    _comparable(found)
    recipes = [recipe.load(one.folder / "recipe.yaml") for one in found]
    spoken = {made.report.language for made in recipes}
    tasks = opened_model.tasks_of(found[0].parts[0])
    domains = {d: s for d, s in DOMAINS.items() if all(f.is_file() for one in found for f in _predictions(one, s))}
    sides = {d: [_side(tasks[d], _predictions(one, s)) for one in found] for d, s in domains.items()}
    sides = {domain: _drawn_alike(each) for domain, each in sides.items()}
    metric = tasks["target"].metrics[0]
    names, lines = _names([one.folder for one in found]), []
    for place, one in enumerate(found):
        scores = {d: _score(tasks[d], each[place], metric) for d, each in sides.items()}
        changes = {d: against(tasks[d], each[place], each[0], metric) for d, each in sides.items()} if place else None
        lines.append(_line(names[place], one, recipes[place], {"target": None, "source": None, **scores}, changes))
    _holm(lines)
    higher = metric not in tasks["target"].lower_is_better
    _pareto(lines, 1.0 if higher else -1.0)
    return {
        "task": found[0].result["task"],
        "language": language or (spoken.pop() if len(spoken) == 1 else "en"),
        "metric": metric,
        "higher_is_better": higher,
        "baseline": lines[0]["name"],
        "clusters": recipes[0].evaluation.clusters,
        "runs": lines,
        "groups": _groups(found),
    }


def _groups(runs: Sequence[run_folder.Run]) -> dict[str, Any]:
    """How the runs serve the same groups of rows, side by side; what one of them lacks is left out.

    {"slices": {column: {value: {"rows", "values": [score a run], "small"}}}, "gap": {column: [best − worst a run]},
    "equalised_odds": the same, "flip_rate": [a run] or null, "ece": [a run] or null}; of several seeds the best one's.
    """
    parts = [run_folder.finished(one.parts[one.best]) or one for one in runs]
    found = [part.result.get("bias") for part in parts]
    known = [one for one in found if one]
    made: dict[str, Any] = {"slices": {}, "gap": {}, "equalised_odds": {}, "flip_rate": None, "ece": None}
    if len(known) == len(runs):
        for column in known[0]["slices"]:
            if not all(column in one["slices"] for one in known):
                continue
            groups = [one["slices"][column]["groups"] for one in known]
            made["slices"][column] = {
                value: {"rows": g["rows"], "values": [each[value]["value"] for each in groups], "small": g["small"]}
                for value, g in groups[0].items()
                if all(value in each for each in groups)
            }
            for name in ("gap", "equalised_odds"):
                values = [one["slices"][column][name] for one in known]
                if all(value is not None for value in values):
                    made[name][column] = values
        if all(one["counterfactual"] for one in known):
            made["flip_rate"] = [one["counterfactual"]["flip_rate"] for one in known]
    calibrated = [(part.result.get("calibration") or {}).get("test") for part in parts]
    if all(calibrated):
        made["ece"] = [one["ece"] for one in calibrated if one]
    return made


def _predictions(one: run_folder.Run, split: str) -> list[Path]:
    return [part / "predictions" / f"{split}.jsonl" for part in one.parts]


def _finished(folder: Path) -> run_folder.Run:
    done = run_folder.finished(folder)
    if done is None or not (folder / "recipe.yaml").is_file():
        raise UserError(Problem(str(folder), "RUN", "no finished run", "a run folder", "name one, or finish it first"))
    return done


def _comparable(runs: Sequence[run_folder.Run]) -> None:
    """UserError where runs were scored on different rows, or are of different tasks."""
    first = runs[0]
    problems = []
    for other in runs[1:]:
        if first.result["task"] != other.result["task"]:
            found, expected = other.result["task"], f"{first.result['task']}, the task of {first.folder}"
            problems.append(Problem(str(other.folder), "task", found, expected, "compare runs of one task"))
        for name in ("model", "source_model"):
            ours, theirs = (_labels(r.parts[0] / name) for r in (first, other))
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


def _side(task: Task, files: Sequence[Path]) -> Side:
    seeds = [read_lines(file) for file in files]
    clusters = clusters_of([row.get("cluster") for row in seeds[0]])
    scores = [sum(row["score"] for row in same) / len(same) for same in zip(*seeds, strict=True)]
    return Side(scores, [table_of(task, rows) for rows in seeds], clusters)


def _drawn_alike(sides: Sequence[Side]) -> list[Side]:
    """The same rows in the clusters that one of the runs names, so that a draw takes the same ones of all."""
    clusters = next((side.clusters for side in sides if side.clusters is not None), None)
    return [replace(side, clusters=clusters) for side in sides]


def _value(task: Task, side: Side, metric: str) -> float:
    each = [scores_of(task, table, intervals=False).metrics[metric] for table in side.tables]
    return float(np.mean(each))


def _drawn(task: Task, side: Side, metric: str) -> np.ndarray:
    """The metric on each draw of rows; the same draws for every side of the same rows."""
    each = [bootstrap.bootstrap(table, clusters=side.clusters) for table in side.tables]
    return np.mean([metrics_of(task, sums)[metric] for sums in each], axis=0)


def _score(task: Task, side: Side, metric: str) -> dict[str, Any]:
    interval = bootstrap.interval(_drawn(task, side, metric))
    return {"value": _value(task, side, metric), "interval": list(interval), "rows": len(side.scores)}


def against(task: Task, ours: Side, theirs: Side, metric: str) -> dict[str, Any]:
    """The change from `theirs` to `ours`, and how likely one as large is where there is none.

    McNemar's test where rows stand alone, are right or wrong, and the metric is the share of right ones.
    """
    drawn = _drawn(task, ours, metric) - _drawn(task, theirs, metric)
    pairs = list(zip(ours.scores, theirs.scores, strict=True))
    share = all(math.isclose(_value(task, side, metric), float(np.mean(side.scores))) for side in (ours, theirs))
    if share and ours.clusters is None and all(score in (0, 1) for pair in pairs for score in pair):
        won, lost = (sum(x > y for x, y in pairs), sum(x < y for x, y in pairs))
        p = mcnemar(lost, won)
    else:
        p = _two_sided(drawn)
    change = _value(task, ours, metric) - _value(task, theirs, metric)
    return {"change": change, "interval": list(bootstrap.interval(drawn)), "p": p}


def _two_sided(drawn: np.ndarray) -> float:
    """Twice the smaller share of draws on one side of 0, with one draw more, so that it is never 0."""
    sides = [(np.sum(drawn <= 0) + 1) / (len(drawn) + 1), (np.sum(drawn >= 0) + 1) / (len(drawn) + 1)]
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
    name: str, one: run_folder.Run, made: fields.Recipe, scores: Mapping[str, Any], against: Mapping[str, Any] | None
) -> dict[str, Any]:
    objective = one.result["objective"]
    return {
        "name": name,
        "folder": str(one.folder),
        "method": one.result["method"],
        "anchor": made.objective.anchor_on if objective["weight"] is not None else None,
        "weight": objective["weight"],
        "share": (one.result["budget"] or {}).get("share", (one.result["interpolation"] or {}).get("kept", 1.0)),
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
