"""What the runs of one recipe's seeds have in common: the pooled `result.json`, of means and intervals over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keeltune.evaluation import bootstrap, harness_change, overfitting
from keeltune.evaluation.intervals import intervals
from keeltune.evaluation.scores import table_of
from keeltune.evaluation.seed_bootstrap import clustered, draws, grouped, over_seeds
from keeltune.runs.result_shape import empty
from keeltune.runs.run_folder import Run
from keeltune.tasks.metrics import scale_of
from keeltune.tasks.task import Task
from keeltune.utils.json_lines import read_lines
from keeltune.utils.messages import joined

Result = Mapping[str, Any]
"""The contents of a `result.json`."""

SPLITS = {
    ("validation",): ("", "validation"),
    ("test",): ("", "test"),
    ("source", "after"): ("", "source"),
    ("source", "before"): ("before", "source"),
    ("before", "validation"): ("before", "validation"),
    ("before", "test"): ("before", "test"),
}
"""Where `result.json` has a split's metrics, and where in the run folder its predictions lie."""


def pool(tasks: Mapping[str, Task], runs: Sequence[Run], failed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The pooled `result.json`: means and intervals over seeds and rows, and `seeds`, which says what they differ by.

    {"seeds": {"numbers", "folders", "best" (the folder to use, by validation), "values": {split: {metric: [value a
    seed]}}, "sd": {split: {metric: standard deviation}}, "failed": [{"seed", "reason"}]}}. `tasks`: of "target" and
    "source" rows.
    """
    results, folders = [run.result for run in runs], [run.folder for run in runs]
    first = results[0]
    pooled = empty() | {name: first[name] for name in ("keeltune", "task", "method", "status", "data", "environment")}
    pooled |= {name: first.get(name) for name in ("audit", "scoring")}
    values = _pool_metrics(pooled, tasks, folders, results)
    metric, sign = tasks["target"].metrics[0], tasks["target"].primary_sign
    validation = values.get("validation", {}).get(metric, [0.0])
    return pooled | {
        "objective": _means([result["objective"] for result in results]),
        "reference": first["reference"],
        "training": _training([result["training"] for result in results]),
        "inference": _inference([result["inference"] for result in results]),
        "forgetting": _forgetting(tasks, folders, results),
        "abilities": _abilities(tasks, folders, results),
        "overfitting": _overfitting(values.get("validation") or values.get("test") or {}, metric, results),
        "seeds": {
            "numbers": [result["training"]["seed"] for result in results],
            "folders": [folder.name for folder in folders],
            "best": folders[int(np.argmax([sign * value for value in validation]))].name,
            "values": values,
            "sd": {
                split: {name: statistics.stdev(of_seeds) for name, of_seeds in metrics.items()}
                for split, metrics in values.items()
            },
            "failed": list(failed),
        },
    }


def _pool_metrics(
    pooled: dict[str, Any], tasks: Mapping[str, Task], folders: Sequence[Path], results: Sequence[Result]
) -> dict[str, dict[str, list[float]]]:
    """Fills `metrics` and `intervals` of `pooled`; returns each seed's values, {split: {metric: [value a seed]}}."""
    values: dict[str, dict[str, list[float]]] = {}
    for path, (where, split) in SPLITS.items():
        metrics = [_at(result["metrics"], path) for result in results]
        if not all(metrics):
            continue
        names = [name for name in metrics[0] if isinstance(metrics[0][name], float)]
        values[" ".join(filter(None, (split, where)))] = {name: [seed[name] for seed in metrics] for name in names}
        details = {name: _mean_by_label(metrics, name) for name in metrics[0] if isinstance(metrics[0][name], dict)}
        means = {name: statistics.fmean(seed[name] for seed in metrics) for name in names}
        _put(pooled["metrics"], path, means | details)
        if path[0] != "before":
            task = tasks["source" if split == "source" else "target"]
            seeds = _lines(folders, where, split)
            tables = [table_of(task, lines) for lines in seeds]
            drawn = [grouped(table, lines) for table, lines in zip(tables, seeds, strict=True)]
            seed_draws = [draws(task, table) for table in drawn]
            over = {name: _within(name, [seed[name] for seed in seed_draws]) for name in names}
            found = intervals(task, tables, over, len(drawn[0]))
            _put(pooled["intervals"], path, {name: list(pair) for name, pair in found.items()})
    return values


def _within(metric: str, seed_draws: Sequence[np.ndarray]) -> np.ndarray:
    """The pool's draws, cut where their root carries them beyond what the metric can be."""
    scale = scale_of(metric)
    lowest = 0.0 if min(draw.min() for draw in seed_draws) >= 0 else -np.inf
    return np.clip(over_seeds(seed_draws), lowest, np.inf if scale is None else scale)


def _lines(folders: Sequence[Path], where: str, split: str) -> list[list[dict[str, Any]]]:
    return [read_lines(folder / "predictions" / where / f"{split}.jsonl") for folder in folders]


def _overfitting(values: Mapping[str, Sequence[float]], metric: str, results: Sequence[Result]) -> dict[str, Any]:
    """The seeds' verdicts, each once, after that on their spread in `metric`."""
    spread = overfitting.spread(values[metric], metric) if metric in values else None
    verdicts = [result["overfitting"]["verdict"] for result in results if result["overfitting"]]
    if spread is not None and spread.light == "red":
        verdicts.insert(0, overfitting.verdict([spread]))
    return {
        "verdict": joined(list(dict.fromkeys(verdicts)), "; "),
        "signals": [spread.reported] if spread else [],
    }


def _forgetting(tasks: Mapping[str, Task], folders: Sequence[Path], results: Sequence[Result]) -> dict[str, Any] | None:
    """The changes of both domains, pooled; the rows and slices are in each seed's own report."""
    reports = [result["forgetting"] for result in results]
    if not all(reports):
        return None
    pooled: dict[str, Any] = {}
    for name in ("source", "control", "target"):
        changes = [report[name] for report in reports]
        task = tasks["target" if name == "target" else "source"]
        pooled[name] = _change(task, folders, changes) if all(changes) else None
    pooled["divergence"] = {
        name: _means(shifts) if all(shifts := [report["divergence"][name] for report in reports]) else None
        for name in ("source", "target")
    }
    return pooled | {"gap": reports[0]["gap"]}


def _abilities(tasks: Mapping[str, Task], folders: Sequence[Path], results: Sequence[Result]) -> dict[str, Any] | None:
    """The changes of the named sets, pooled as those of the domains are, and those of the harness's tasks."""
    first = results[0].get("abilities")
    if not first:
        return None
    pooled = {}
    for name, ability in first.items():
        changes = [result["abilities"][name] for result in results]
        if "harness" in ability:
            before, after = (_lines(folders, where, ability["split"]) for where in ("before", ""))
            pooled[name] = harness_change.pooled(changes, before, after)
        elif ability["split"] in tasks:
            named = {key: ability[key] for key in ("task", "split", "language")}
            pooled[name] = named | _change(tasks[ability["split"]], folders, changes)
    return pooled


def _change(task: Task, folders: Sequence[Path], changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One split before and after, as `evaluation.forgetting.change` says it of one seed."""
    split = changes[0]["split"]
    after, before = ([clustered(task, lines) for lines in _lines(folders, where, split)] for where in ("", "before"))
    differences = [
        {name: new[name] - old[name] for name in new}
        for new, old in ((draws(task, now), draws(task, then)) for now, then in zip(after, before, strict=True))
    ]
    metrics = {
        name: {
            key: statistics.fmean(change["metrics"][name][key] for change in changes)
            for key in ("before", "after", "change")
        }
        | {"interval": list(bootstrap.interval(over_seeds([seed[name] for seed in differences])))}
        for name in changes[0]["metrics"]
    }
    retentions = [change["retention"] for change in changes]
    return {
        "split": split,
        **{key: changes[0][key] for key in ("rows", "clusters", "metric")},
        "metrics": metrics,
        "retention": statistics.fmean(retentions) if all(value is not None for value in retentions) else None,
        "mcnemar": None,
        "by_label": None,
        "slices": {},
        "lost": None,
        "won": None,
    }


def _training(of_seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds, steps and examples of all seeds together; speeds on average, memory at the most."""
    first = of_seeds[0]
    pooled = {**first, **_means(of_seeds)}
    for name in ("seconds", "steps", "examples"):
        pooled[name] = sum(seed[name] for seed in of_seeds)
    return pooled | {
        "peak_memory_bytes": max(seed["peak_memory_bytes"] for seed in of_seeds),
        "seed": [seed["seed"] for seed in of_seeds],
        **{name: first[name] for name in ("world_size", "trained_parameters", "parameters", "lora") if name in first},
    }


def _inference(of_seeds: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Rows and seconds of all seeds together."""
    timed = [seed for seed in of_seeds if seed]
    return {name: sum(seed[name] for seed in timed) for name in ("rows", "seconds")} if timed else None


def _means(of_seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of what are numbers in all of them; the first one's value of everything else."""
    return {
        name: statistics.fmean(seed[name] for seed in of_seeds)
        if all(isinstance(seed[name], float) for seed in of_seeds)
        else value
        for name, value in of_seeds[0].items()
    }


def _mean_by_label(of_seeds: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """`by_label`: the mean of each label's numbers."""
    return {label: _means([seed[name][label] for seed in of_seeds]) for label in of_seeds[0][name]}


def _at(metrics: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = metrics
    for key in path:
        value = None if value is None else value.get(key)
    return value


def _put(holder: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
