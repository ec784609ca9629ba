"""What a training logged, step by step: of one run, or of each seed of a pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keeltune.reports import charts
from keeltune.reports.localization import Say
from keeltune.utils.files import read_lines

Log = Sequence[Mapping[str, Any]]
"""The lines of a `log.jsonl`."""


def pictures(folder: Path, result: Mapping[str, Any], say: Say) -> list[str]:
    """The learning curves of a run's page; at least one, which says so where nothing was logged."""
    if not result["seeds"]:
        return list(_of_one(read_lines(folder / "log.jsonl"), say))
    seeds = zip(result["seeds"]["numbers"], result["seeds"]["folders"], strict=True)
    logs = {f"{say('seed')} {number}": read_lines(folder / name / "log.jsonl") for number, name in seeds}
    return list(_of_seeds(logs, result, say))


def _of_one(log: Log, say: Say) -> Iterator[str]:
    names = {"cross-entropy": "cross_entropy", "divergence": "divergence", "validation": "eval_loss"}
    losses = {say(said): _points(log, name) for said, name in names.items()}
    yield charts.lines(losses, say("step"), say("nats a prediction"), say("nothing was logged"))
    scores = {name.removeprefix("eval_"): _points(log, name) for name in _metrics(log)}
    if any("eval_loss" in entry for entry in log):
        yield charts.lines(scores, say("step"), say("validation"), say("nothing was logged"))


def _of_seeds(logs: Mapping[str, Log], result: Mapping[str, Any], say: Say) -> Iterator[str]:
    """One picture a quantity, in it one line a seed; of the metrics the first alone, which the best seed is chosen by.

    A pool's folder has no log of its own, and needs a picture where it has no scores either.
    """
    nats = say("nats a prediction")
    asked = {
        "cross_entropy": f"{say('cross-entropy')}, {nats}",
        "divergence": f"{say('divergence')}, {nats}",
        "eval_loss": f"{say('validation')}, {nats}",
    }
    known = [f"eval_{metric}" for metric in result["metrics"]["validation"] or {}]
    logged = [name for log in logs.values() for name in _metrics(log)]
    if chosen := next((name for name in [*known, *logged] if name in logged), None):
        asked[chosen] = f"{say('validation')}, {chosen.removeprefix('eval_')}"
    for name, label in asked.items():
        series = {seed: _points(log, name) for seed, log in logs.items()}
        if any(series.values()) or name == "cross_entropy":
            yield charts.lines(series, say("step"), label, say("nothing was logged"))


def _points(log: Log, name: str) -> list[charts.Point]:
    return [(entry["step"], entry[name]) for entry in log if name in entry]


def _metrics(log: Log) -> list[str]:
    """The names of the validation metrics; the loss has another unit."""
    return list(dict.fromkeys(key for entry in log for key in entry if key.startswith("eval_") and key != "eval_loss"))
