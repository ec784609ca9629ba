from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from keeltune.evaluation import calibration, overfitting
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import NewModel, StudentFrom
from keeltune.reports.findings.next_step import next_step
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section
from keeltune.utils.messages import Message, joined


class Headline(Section):
    """The run in one sentence: what was trained, how good and how sure it is, what it cost, and what to do next."""

    order = 1
    template = """\
<p class="headline">{{ sentence }}<br><span class="next">{{ advice }}</span></p>"""

    def values(self, run: FinishedRun) -> Mapping[str, Any]:
        parts = [_trained(run), *_score(run), *_confidence(run.result), _cost(run.result)]
        return {
            "sentence": run.say(joined([joined(parts, "; "), Message(".")])),
            "advice": run.say("Next: {advice}.", advice=next_step(run.result)),
        }


MADE = {
    "fine-tuning": "{model}, fine-tuned for {task} on {rows:,} rows{parts}",
    "distillation": "{model}, distilled from a teacher for {task} on {rows:,} rows{parts}",
    "cross-domain": "{model}, fine-tuned for {task} on {rows:,} rows of a new domain, held near the old one{parts}",
}


def _trained(run: FinishedRun) -> Message:
    result = run.result
    stream = next((stream for name in ("train", "unlabeled") if (stream := result["data"].get(name))), None)
    return Message(
        MADE[result["method"]],
        model=_model(run.recipe), task=result["task"], rows=stream["rows"] if stream else 0,
        parts=_parts(result["training"] or {}),
    )  # fmt: skip


def _model(recipe: Recipe | None) -> str:
    """The student's name: of a folder `model` that of the run that it lies in."""
    if recipe is None:
        return Message("a model")
    if isinstance(recipe.model, NewModel):
        return Message("a new model")
    if isinstance(recipe.model, StudentFrom):
        return Message("{layers} layers of {name}", layers=recipe.model.layers, name=_last(recipe.model.teacher))
    return _last(str(recipe.model))


def _last(name: str) -> str:
    parts = [part for part in PurePath(name).parts if part not in ("model", "..", "/")]
    return parts[-1] if parts else name


def _parts(training: Mapping[str, Any]) -> str:
    """Which parameters were trained."""
    if not training.get("parameters"):
        return ""
    counts = {name: _millions(training[name]) for name in ("trained_parameters", "parameters")}
    if lora := training.get("lora"):
        template = ", by LoRA of rank {rank} ({trained_parameters} of {parameters} parameters)"
        return Message(template, rank=lora["rank"], **counts)
    if training["trained_parameters"] == training["parameters"]:
        return Message(" (all {parameters} parameters)", **counts)
    return Message(" ({trained_parameters} of {parameters} parameters)", **counts)


def _millions(count: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:.0f}"


def _score(run: FinishedRun) -> list[Message]:
    """The primary metric of the test rows, else of the validation rows, with its interval, beside the score before
    training, or that of the commonest label."""
    metrics, intervals = run.result["metrics"], run.result["intervals"]
    split = next((split for split in ("test", "validation") if metrics[split]), None)
    if split is None:
        return [Message("not scored, for want of validation and test rows")]
    metric, before = next(iter(metrics[split])), metrics["before"][split]
    ends = (intervals[split] or {}).get(metric)
    said = Message(
        "{metric} {value:.3f}{interval} on {rows:,} rows of {split}",
        metric=metric, value=metrics[split][metric], split=Message(split), rows=run.result["data"][split]["rows"],
        interval=Message(" ({low:.3f} to {high:.3f})", low=ends[0], high=ends[1]) if ends else "",
    )  # fmt: skip
    if before and metric in before:
        return [joined([said, Message(", {before:.3f} before training", before=before[metric])])]
    golds = [line.get("gold") for line in run.predictions(split)]
    if metric == "accuracy" and golds and all(isinstance(gold, str) for gold in golds):
        _, chance = overfitting.commonest([str(gold) for gold in golds])
        return [joined([said, Message(", {chance:.3f} by always the commonest label", chance=chance)])]
    return [said]


CONFIDENT = {
    "over": "overconfident (mean confidence {confidence:.3f}, {right:.3f} right)",
    "under": "underconfident (mean confidence {confidence:.3f}, {right:.3f} right)",
    "both": "too sure of some rows and too unsure of others (mean confidence {confidence:.3f}, {right:.3f} right)",
    "fits": "as sure as it is right (mean confidence {confidence:.3f}, {right:.3f} right)",
}


def _confidence(result: Mapping[str, Any]) -> list[Message]:
    measured = next((m for s in ("test", "validation") if (m := (result["calibration"] or {}).get(s))), None)
    if measured is None:
        return []
    confidence, right = calibration.confidence_and_accuracy(measured)
    off = measured["ece"] - measured["ece_by_chance"] > overfitting.MISCALIBRATED[0]
    kind = calibration.side(measured) if off else "fits"
    return [Message(CONFIDENT[kind], confidence=confidence, right=right)]


def _cost(result: Mapping[str, Any]) -> Message:
    training = result["training"]
    return Message(
        "{time} of training and {memory:.1f} GiB of memory at most",
        time=duration(training["seconds"]), memory=training["peak_memory_bytes"] / 2**30,
    )  # fmt: skip


def duration(seconds: float) -> Message:
    """Seconds, minutes or hours, whichever are read at once."""
    if seconds < 90:
        return Message("{n:.0f} s", n=seconds)
    return Message("{n:.0f} min", n=seconds / 60) if seconds < 5400 else Message("{n:.1f} h", n=seconds / 3600)
