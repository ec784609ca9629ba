from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from keeltune.reports import charts
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.localization import Translator
from keeltune.reports.sections.section import Section
from keeltune.utils.json_lines import read_lines

Log = Sequence[Mapping[str, Any]]
"""The lines of a `log.jsonl`."""


class TrainingCurves(Section):
    """What the training logged, step by step: of one run, or of each seed of several."""

    order = 100
    template = """\
<h2>{{ _("Learning curves") }}</h2>
{% for chart in charts %}{{ chart }}
{% endfor %}"""

    def values(self, run: FinishedRun) -> Mapping[str, Any]:
        """At least one picture, which says so where nothing was logged."""
        say = run.say
        if not run.parts:
            pictures = _of_one(read_lines(run.folder / "log.jsonl", infinity=True), say)
        else:
            logs = {
                f"{say('seed')} {n}": read_lines(folder / "log.jsonl", infinity=True) for n, folder in run.parts.items()
            }
            pictures = _of_seeds(logs, list(run.result["metrics"]["validation"] or {}), say)
        return {"charts": [Markup(picture) for picture in pictures]}


def _of_one(log: Log, say: Translator) -> Iterator[str]:
    keys = {"cross-entropy": "cross_entropy", "divergence": "divergence", "validation": "eval_loss"}
    losses = {say(name): _points(log, key) for name, key in keys.items()}
    yield charts.lines(losses, say("step"), say("nats a prediction"), say("nothing was logged"))
    scores = {say(key.removeprefix("eval_")): _points(log, key) for key in _metric_keys(log)}
    if any("eval_loss" in entry for entry in log):
        yield charts.lines(scores, say("step"), say("validation"), say("nothing was logged"))


def _of_seeds(logs: Mapping[str, Log], metrics: Sequence[str], say: Translator) -> Iterator[str]:
    """One picture a quantity, in it one line a seed; of the metrics the first alone, which the best seed is chosen by.

    A pool's folder has no log of its own, and needs a picture where it has no scores either.
    """
    nats = say("nats a prediction")
    axes = {
        "cross_entropy": say("{what}, {unit}", what=say("cross-entropy"), unit=nats),
        "divergence": say("{what}, {unit}", what=say("divergence"), unit=nats),
        "eval_loss": say("{what}, {unit}", what=say("validation"), unit=nats),
    }
    logged = [key for log in logs.values() for key in _metric_keys(log)]
    candidates = [*(f"eval_{metric}" for metric in metrics), *logged]
    if chosen := next((key for key in candidates if key in logged), None):
        axes[chosen] = say("{what}, {unit}", what=say("validation"), unit=say(chosen.removeprefix("eval_")))
    for key, axis in axes.items():
        series = {seed: _points(log, key) for seed, log in logs.items()}
        if any(series.values()) or key == "cross_entropy":
            yield charts.lines(series, say("step"), axis, say("nothing was logged"))


def _points(log: Log, key: str) -> list[charts.Point]:
    return [(entry["step"], entry[key]) for entry in log if key in entry]


def _metric_keys(log: Log) -> list[str]:
    """The log's keys of validation metrics; the loss has another unit."""
    return list(dict.fromkeys(key for entry in log for key in entry if key.startswith("eval_") and key != "eval_loss"))
