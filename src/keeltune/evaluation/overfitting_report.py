"""What a finished run reports of itself: its signs of overfitting, and how well its probabilities are calibrated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from keeltune.data import dataset
from keeltune.data.media import Media
from keeltune.evaluation import calibration, miscalibration, overfitting, prediction, undertraining
from keeltune.evaluation.beyond_the_mean import beyond_the_mean
from keeltune.evaluation.scores import WRITTEN, Scores
from keeltune.evaluation.scores import score as scored
from keeltune.objective.predictions import IGNORED
from keeltune.training.job import Job
from keeltune.training.preparation.row_encoding import encode_rows
from keeltune.utils.json_lines import read_lines

LATE = 50
"""The last steps whose mean is the training's last cross-entropy; of a short training its second half."""

STEADY = 0.02
"""How far the last validation loss may lie above the lowest one, as a share of its fall, to be still falling."""

ROWS = 500
"""Training rows that are answered once more at the end."""


def overfitting_report(
    job: Job,
    model: Any,
    folder: Path,
    after: Mapping[str, Scores | None],
    log: Sequence[Mapping[str, Any]],
    forgetting: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What `result.json` reports as `overfitting` and `calibration`; `forgetting`: what it reports as that.

    `calibration`: {"validation", "test"}: what `calibration.of_lines` says of the run's predictions, the temperature
    fitted on validation alone; null where answers have no probabilities.
    """
    predictions = folder / "predictions"
    lines = {split: read_lines(predictions / f"{split}.jsonl") for split in ("validation", "test")}
    fitted = calibration.of_lines(lines["validation"])
    temperature = fitted["temperature"] if fitted else None
    tested = calibration.of_lines(lines["test"], temperature, fit=False)
    shift = (forgetting or {}).get("divergence", {}).get("target")
    drift = overfitting.drift(shift["reverse_kl"]) if shift else None
    return {
        "overfitting": overfitting.report([*_signals(job, model, after, log, lines, fitted), drift]),
        "calibration": {"validation": fitted, "test": tested} if fitted or tested else None,
    }


def _signals(
    job: Job,
    model: Any,
    after: Mapping[str, Scores | None],
    log: Sequence[Mapping[str, Any]],
    lines: Mapping[str, Sequence[Mapping[str, Any]]],
    fitted: Mapping[str, Any] | None,
) -> list[overfitting.Signal | None]:
    material, task = job.material, job.material.task
    metric, sign = task.metrics[0], task.primary_sign
    evaluations = [entry for entry in log if f"eval_{metric}" in entry]
    losses, scores = ([e[f"eval_{name}"] for e in evaluations if f"eval_{name}" in e] for name in ("loss", metric))
    signals: list[overfitting.Signal | None] = []
    explained = entropy = None
    trained = _last_cross_entropy(log)
    if task.choices == "labels" and not task.settings.multi_label and not task.settings.class_weights:
        learnt = [target for e in material.examples["train"] for target in e.targets if target != IGNORED]
        counts, _ = overfitting.commonest([str(target) for target in learnt])
        entropy = overfitting.entropy_of(counts)
        if trained is not None and (signal := overfitting.nothing_learnt(trained, counts, material.steps)):
            signals.append(signal)
            explained = 1 - signal.value
    signals.append(_undertrained(job, log, lines, losses, entropy))
    validation = after["validation"]
    if validation is not None and material.rows["train"]:
        train = _on_training_rows(job, model)
        value = validation.metrics[metric]
        if train is not None:
            drop = max(sign * (score - scores[-1]) for score in scores) if scores else 0.0
            signals.append(overfitting.gap(train.metrics[metric], value, metric, sign, fell=drop))
        if metric == "accuracy" and explained is not None:
            _, chance = overfitting.commonest([json.dumps(task.gold(row)) for row in material.rows["validation"]])
            signals.append(overfitting.by_chance(value, validation.intervals[metric][0], chance, explained, metric))
        if metric == "r2" and train is not None:
            low = validation.intervals[metric][0]
            signals += beyond_the_mean(train.metrics[metric], value, low, material.steps)
        inputs = partial(_inputs, {column.name for column in task.columns if not column.label})
        learnt_rows, other_rows = (
            [inputs(row.fields) for row in material.rows[split]] for split in ("train", "validation")
        )
        signals.append(overfitting.shared(other_rows, learnt_rows))
    signals.append(overfitting.rising(losses, scores, sign))
    signals.append(overfitting.confident_errors(lines["validation"]))
    if fitted is not None:
        signals.append(miscalibration.miscalibration(fitted))
    signals.append(overfitting.gradients([entry["grad_norm"] for entry in log if "grad_norm" in entry]))
    return signals


def _last_cross_entropy(log: Sequence[Mapping[str, Any]]) -> float | None:
    """Of the last steps' entries, the mean."""
    entries = [entry for entry in log if "cross_entropy" in entry]
    if not entries:
        return None
    last = entries[-1]["step"]
    late = [entry["cross_entropy"] for entry in entries if entry["step"] > last - min(LATE, last / 2)]
    return float(sum(late) / len(late))


def _undertrained(
    job: Job,
    log: Sequence[Mapping[str, Any]],
    lines: Mapping[str, Sequence[Mapping[str, Any]]],
    losses: Sequence[float],
    entropy: float | None,
) -> overfitting.Signal | None:
    """The eleventh sign. `losses`: of the validation rows. A taught student's doubt is its teacher's."""
    answers = None
    if not job.material.recipe.has_teacher:
        answers = undertraining.doubt(lines["validation"] or lines["test"])
    return undertraining.undertrained(
        undertraining.course(log),
        entropy=entropy or None,
        answers=answers,
        steps=max([0, *(entry.get("step", 0) for entry in log)]),
        new_head=bool(job.student.fresh),
        best_is_last=not losses or losses[-1] <= min(losses) + STEADY * (losses[0] - min(losses)),
    )


def _inputs(names: set[str], fields: Mapping[str, Any]) -> dict[str, str]:
    """A row's inputs as texts."""
    inputs = {name: fields[name] for name in names & fields.keys()}
    return {name: _text(value) for name, value in inputs.items()}


def _text(value: Any) -> str:
    """A value as words; of a picture or a recording the digest of its content."""
    if isinstance(value, Media):
        return value.digest
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _on_training_rows(job: Job, model: Any) -> Scores | None:
    """The scores on some of the training rows, as an evaluation reads them."""
    task, rows = job.material.task, job.material.rows["train"]
    indices = dataset.subset(len(rows), WRITTEN // 2 if task.generates else ROWS)
    sound, encoded, _ = encode_rows(task, [rows[i] for i in indices], task.encode_scored)
    if not sound:
        return None
    answers = prediction.predict(model, task, encoded, device=job.device, autocast=job.autocast)
    return scored(task, answers, sound, intervals=False)
