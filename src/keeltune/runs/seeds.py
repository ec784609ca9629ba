"""One recipe with several seeds: a run folder for each, and above them what they have in common.

    seed-0/ seed-1/ …     whole runs of their own
    recipe.yaml  result.json  report.html     the pool

A pooled score is the mean over the seeds. Its 95 % interval draws rows, the same for all seeds where their rows are the
same, and seeds, so that it holds both what other rows and what other seeds would change:

    draw = m + √(S / (S − 1)) · (m* − m),     m the mean over all S seeds of their scores on the drawn rows, m* that
                                               over S seeds drawn with replacement

The root makes up for a draw among S values showing only (S − 1) / S of their variance. With three seeds the spread
itself is known badly; five and more are better.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed

from keeltune.data.clusters import clusters_of
from keeltune.evaluation import bootstrap, overfitting, test_set_looks
from keeltune.evaluation.scores import metrics_of, table_of
from keeltune.recipe import load, opened, parse
from keeltune.recipe.fields import Recipe
from keeltune.reports import run_page
from keeltune.runs import inference, run, run_folder
from keeltune.runs.result import empty
from keeltune.runs.run_folder import Run
from keeltune.tasks.task import Task
from keeltune.utils import distributed
from keeltune.utils.errors import Problem, StateRefused, shown
from keeltune.utils.files import differences, read_lines, write_json, write_text
from keeltune.utils.messages import joined
from keeltune.utils.progress import Display

RESTARTS = 2
"""How often a seed whose training failed is tried with another one."""

ANOTHER = 1000
"""What is added to a failed seed."""

SPLITS = {
    ("validation",): ("", "validation"),
    ("test",): ("", "test"),
    ("source", "after"): ("", "source"),
    ("source", "before"): ("before", "source"),
    ("before", "validation"): ("before", "validation"),
    ("before", "test"): ("before", "test"),
}
"""Where `result.json` has a split's metrics, and where in the run folder its predictions lie."""


def train(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
) -> Run:
    """Trains and evaluates after a recipe, and writes its run folder; of several seeds one each, and their pool.

    Args:
        recipe: a YAML file's path, a `Recipe`, or a mapping as YAML would give it.
        resume: go on from the newest checkpoint in `output`; the run ends as if it had not been interrupted.
        overwrite: remove an earlier run from `output` first.
    Raises: UserError (recipe, data or call at fault; every problem in it), StateRefused (the checkpoint belongs to
        another recipe or data), Diverged, OutOfResources, Stopped (asked to stop; resumable).
    """
    recipe = opened(recipe)
    if len(of(recipe)) == 1:
        return run.train(recipe, resume=resume, overwrite=overwrite, display=display)
    main = distributed.is_main_process()
    display = display or Display(quiet=not main)
    folder = recipe.path(recipe.output)
    if main:
        run_folder.claim(folder, resume=resume, overwrite=overwrite)
        if resume:
            _same(folder, recipe)
        write_text(folder / "recipe.yaml", recipe.dump())
    with run_folder.status_of(folder, recipe, main):
        runs, failed = _each(recipe, folder, display, resume)
        if not main:
            return Run(folder, {})
        result = pool(inference.tasks_of(runs[0].folder), runs, failed)
        if (tested := result["data"]["test"]) and not (folder / "result.json").is_file():
            test_set_looks.look(folder, by="train", fingerprint=tested["fingerprint"], rows=tested["rows"])
        write_json(folder / "result.json", result)
        write_text(folder / "report.html", run_page.page(folder, result))
    return Run(folder, result)


def _same(folder: Path, recipe: Recipe) -> None:
    """StateRefused where the folder's seeds are of another recipe, or the folder is a single run's."""
    if not (folder / "recipe.yaml").is_file():
        return
    then, now = (
        made.model_dump(mode="json", by_alias=True, exclude={"output", "report"})
        for made in (load(folder / "recipe.yaml"), parse(recipe.dump(), folder=folder))
    )
    single = (folder / "checkpoints" / "identity.json").is_file()
    problems = [
        Problem(str(folder), name, f"{shown(new)} in this recipe, {shown(old)} in the run", "the recipe that it was "
                "started with", "undo the change, or start anew with --overwrite")
        for name, old, new in differences(then, now)
    ]  # fmt: skip
    if problems or single:
        found, fix = "a run of one seed", "name another folder, or start anew with --overwrite"
        raise StateRefused(problems or Problem(str(folder), "training.seed", found, "runs of several seeds", fix))


def of(recipe: Recipe) -> list[int]:
    """The recipe's seeds, each once."""
    seed = recipe.training.seed
    return list(dict.fromkeys(seed)) if isinstance(seed, list) else [seed]


def _each(recipe: Recipe, folder: Path, display: Display, resume: bool) -> tuple[list[Run], list[dict[str, Any]]]:
    """Trains the seeds that are not finished yet: their runs, and the seeds that failed and were replaced.

    A training that has learnt nothing (`overfitting.stuck`) is tried again with another seed; the failed run's folder
    stays, as `seed-N-failed`.
    """
    runs, numbers = [], of(recipe)
    spoken_for = set(numbers)
    for place, seed in enumerate(numbers):
        output = folder / f"seed-{seed}"
        others = (seed + ANOTHER * n for n in range(1, (1 + RESTARTS) * len(numbers) + 1))
        tries = [seed, *[other for other in others if other not in spoken_for][:RESTARTS]]
        spoken_for.update(tries)
        for used in tries:
            if (folder / f"seed-{used}-failed").is_dir():
                continue
            display.say(f"seed {used} ({place + 1} of {len(numbers)})")
            training = recipe.training.model_copy(update={"seed": used})
            one = recipe.model_copy(update={"training": training, "output": str(output)})
            done = run.train(one, resume=resume, display=display)
            reason = _of_rank_0(overfitting.stuck(done.result))
            if reason is None or used == tries[-1]:
                break
            display.say(f"warning: seed {used} failed: {reason}; another one is tried")
            if distributed.is_main_process():
                output.rename(folder / f"seed-{used}-failed")
            _of_rank_0(None)
        runs.append(done)
    failed = []
    for kept in sorted(folder.glob("seed-*-failed")):
        result = json.loads((kept / "result.json").read_text(encoding="utf-8"))
        failed.append({"seed": result["training"]["seed"], "reason": overfitting.stuck(result)})
    return runs, failed


def _of_rank_0(value: Any) -> Any:
    """The first process's value in all of them, who wait for it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    holder = [value]
    torch.distributed.broadcast_object_list(holder, src=0)
    return holder[0]


def pool(tasks: Mapping[str, Task], runs: Sequence[Run], failed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The pooled `result.json`: means and intervals over seeds and rows, and `seeds`, which says what they differ by.

    {"seeds": {"numbers", "folders", "best" (the folder to use, by validation), "values": {split: {metric: [value a
    seed]}}, "sd": {split: {metric: standard deviation}}, "failed": [{"seed", "reason"}]}}. `tasks`: of "target" and
    "source" rows.
    """
    results, folders = [one.result for one in runs], [one.folder for one in runs]
    first = results[0]
    made = empty() | {name: first[name] for name in ("keeltune", "task", "method", "status", "data", "environment")}
    made["audit"] = first.get("audit")
    values: dict[str, Any] = {}
    for path, (where, split) in SPLITS.items():
        found = [_at(result["metrics"], path) for result in results]
        if not all(found):
            continue
        names = [name for name in found[0] if isinstance(found[0][name], float)]
        values[" ".join(filter(None, (split, where)))] = {name: [f[name] for f in found] for name in names}
        details = {name: _mean(found, name) for name in found[0] if isinstance(found[0][name], dict)}
        _put(made["metrics"], path, {name: statistics.fmean(f[name] for f in found) for name in names} | details)
        if path[0] != "before":
            task = tasks["source" if split == "source" else "target"]
            drawn = [draws(task, table) for table in _tables(task, folders, where, split)]
            ranges = {name: _within(name, [each[name] for each in drawn]) for name in names}
            _put(made["intervals"], path, ranges)
    metric, sign = tasks["target"].metrics[0], tasks["target"].primary_sign
    judged = values.get("validation") or values.get("test") or {}
    spread = overfitting.spread(judged[metric], metric) if metric in judged else None
    verdicts = [r["overfitting"]["verdict"] for r in results if r["overfitting"]]
    if spread is not None and spread.light == "red":
        verdicts.insert(0, overfitting.verdict([spread]))
    chosen = values.get("validation", {}).get(metric, [0.0])
    return made | {
        "objective": _means([result["objective"] for result in results]),
        "reference": first["reference"],
        "training": _training([result["training"] for result in results]),
        "forgetting": _forgetting(tasks, folders, results),
        "overfitting": {
            "verdict": joined(list(dict.fromkeys(verdicts)), "; "),
            "signals": [asdict(spread)] if spread else [],
        },
        "seeds": {
            "numbers": [result["training"]["seed"] for result in results],
            "folders": [folder.name for folder in folders],
            "best": folders[int(np.argmax([sign * value for value in chosen]))].name,
            "values": values,
            "sd": {s: {n: statistics.stdev(v) for n, v in found.items()} for s, found in values.items()},
            "failed": list(failed),
        },
    }


def draws(task: Task, table: np.ndarray, resamples: int = bootstrap.RESAMPLES) -> dict[str, np.ndarray]:
    """Each metric on each draw of a table's rows: {name: [resamples]}; the same draws for tables of as many rows."""
    return metrics_of(task, bootstrap.bootstrap(table, resamples))


def over_seeds(drawn: Sequence[np.ndarray]) -> np.ndarray:
    """The module's draw: of each seed's scores on the drawn rows, [seeds][resamples], those of the pool [resamples]."""
    scores = np.stack(drawn)
    seeds = len(scores)
    mean = scores.mean(0)
    if seeds == 1:
        return mean
    shares = np.random.default_rng(1).multinomial(seeds, np.full(seeds, 1 / seeds), size=scores.shape[1]) / seeds
    return mean + np.sqrt(seeds / (seeds - 1)) * ((shares.T * scores).sum(0) - mean)


def _within(metric: str, drawn: Sequence[np.ndarray]) -> list[float]:
    """The pool's interval; the root in its draws may carry them beyond what the metric can be, where it is cut."""
    low, high = bootstrap.interval(over_seeds(drawn))
    scale = overfitting.scale_of(metric)
    lowest = 0.0 if min(each.min() for each in drawn) >= 0 else -np.inf
    return [float(np.clip(end, lowest, np.inf if scale is None else scale)) for end in (low, high)]


def _tables(task: Task, folders: Sequence[Path], where: str, split: str) -> list[np.ndarray]:
    lines = [read_lines(folder / "predictions" / where / f"{split}.jsonl") for folder in folders]
    return [clustered(task, each) for each in lines]


def clustered(task: Task, lines: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """A table of what is drawn together: rows, or the sums of their clusters."""
    clusters = clusters_of([line.get("cluster") for line in lines])
    return bootstrap.summed(table_of(task, lines), clusters)


def _forgetting(
    tasks: Mapping[str, Task], folders: Sequence[Path], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The changes of both domains, pooled; the rows and slices are in each seed's own report."""
    reports = [result["forgetting"] for result in results]
    if not all(reports):
        return None
    made: dict[str, Any] = {}
    for name in ("source", "control", "target"):
        found = [each[name] for each in reports]
        if not all(found):
            made[name] = None
            continue
        split, task = found[0]["split"], tasks["target" if name == "target" else "source"]
        after, before = (_tables(task, folders, where, split) for where in ("", "before"))
        changes = [
            {n: a[n] - b[n] for n in a}
            for a, b in ((draws(task, now), draws(task, then)) for now, then in zip(after, before, strict=True))
        ]
        metrics = {
            n: {key: statistics.fmean(one["metrics"][n][key] for one in found) for key in ("before", "after", "change")}
            | {"interval": list(bootstrap.interval(over_seeds([c[n] for c in changes])))}
            for n in found[0]["metrics"]
        }
        kept = [one["retention"] for one in found]
        made[name] = {
            "split": split,
            **{key: found[0][key] for key in ("rows", "clusters", "metric")},
            "metrics": metrics,
            "retention": statistics.fmean(kept) if all(value is not None for value in kept) else None,
            "mcnemar": None,
            "by_label": None,
            "slices": {},
            "lost": None,
            "won": None,
        }
    made["divergence"] = {
        name: _means(moved) if all(moved := [each["divergence"][name] for each in reports]) else None
        for name in ("source", "target")
    }
    return made | {"gap": reports[0]["gap"]}


def _training(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds, steps and examples of all seeds together; speeds on average, memory at the most."""
    made = {**each[0], **_means(each)}
    for name in ("seconds", "steps", "examples"):
        made[name] = sum(one[name] for one in each)
    return made | {
        "peak_memory_bytes": max(one["peak_memory_bytes"] for one in each),
        "seed": [one["seed"] for one in each],
        **{name: each[0][name] for name in ("world_size", "trained_parameters", "parameters")},
    }


def _means(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of what are numbers in all of them; the first one's value of everything else."""
    return {
        name: statistics.fmean(one[name] for one in each)
        if all(isinstance(one[name], float) for one in each)
        else each[0][name]
        for name in each[0]
    }


def _mean(found: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """`by_label`: the mean of each label's numbers."""
    return {key: _means([one[name][key] for one in found]) for key in found[0][name]}


def _at(metrics: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = metrics
    for step in path:
        found = None if found is None else found.get(step)
    return found


def _put(holder: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
