"""A split's rows, predicted and scored as a run does it: before training, while it trains, and at its end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed

from keeltune import evaluation, prepare
from keeltune.build import Job
from keeltune.display import Display
from keeltune.prepare import OLD, SCORED
from keeltune.results import write_text
from keeltune.tasks.task import Prediction
from keeltune.trainer import KeelTrainer


def before(job: Job, folder: Path, display: Display, main: bool) -> dict[str, evaluation.Scores | None]:
    """The model as it was before training, scored; nothing where its head is new."""
    known: tuple[str, ...] = () if job.student.fresh else SCORED
    known = OLD if job.beside is not None else known  # the old head answers its own rows, whatever is new
    place = folder / "predictions" / "before"
    return {split: score(job, job.model, split, place, display, main) if split in known else None for split in SCORED}


def score(job: Job, model: Any, split: str, folder: Path, display: Display, main: bool) -> evaluation.Scores | None:
    """A split's scores, its predictions in `folder`; float32, as stock transformers computes them from `model/`."""
    rows = job.material.rows[split]
    if not rows:
        return None
    file = folder / f"{split}.jsonl"
    predictions = predict(job, model, split, display)
    task, _ = job.of(split, model)
    clusters = job.material.recipe.evaluation.clusters
    if main:
        lines = evaluation.prediction_rows(task, predictions, rows, clusters=clusters)
        write_text(file, "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines))
    return evaluation.score(task, predictions, rows, clusters=clusters)


def predict(
    job: Job, model: Any, split: str, display: Display, *, places: Sequence[int] | None = None, fast: bool = False
) -> list[Prediction]:
    """A split's predictions; several processes share the rows."""
    encoded = job.material.encoded[split]
    encoded = encoded if places is None else [encoded[i] for i in places]
    rank, world = int(os.environ.get("RANK", "0")), prepare.world_size()
    mine = encoded[rank::world]
    task, model = job.of(split, model)
    options = {"autocast": job.autocast} if fast else {}
    with display.bar(f"scoring {split}", sum(map(len, mine))) as advance:
        answers = evaluation.predict(model, task, mine, device=job.device, progress=advance, **options)  # type: ignore[arg-type]
    if world == 1:
        return answers
    shares: list[list[Prediction]] = [[] for _ in range(world)]
    torch.distributed.all_gather_object(shares, answers)
    return [shares[i % world][i // world] for i in range(len(encoded))]


def scored(job: Job, model: Any, split: str, places: Sequence[int]) -> evaluation.Scores:
    """A model's scores on some rows of a split, in the training's precision, without intervals."""
    answers = predict(job, model, split, Display(quiet=True), places=places, fast=True)
    rows = [job.material.rows[split][i] for i in places]
    task, _ = job.of(split, model)
    return evaluation.score(task, answers, rows, intervals=False)


def settle(job: Job, trainer: KeelTrainer) -> dict[str, Any] | None:
    """Leaves in the model what its run keeps: the best weights; the last ones where nothing was validated.

    Where training ended early, the mean of the weights since the best evaluation takes their place, unless they are
    better on the validation rows by more than the standard error of the difference, rows drawn in pairs (the 16th
    percentile). Returns None, or {"evaluations", "metric", "mean", "best": the scores, "kept": whether the mean is}.
    """
    trainer.load_best()
    mean = trainer.since_best
    if mean is None or mean.count < 2 or trainer.state.global_step >= trainer.state.max_steps:
        return None
    material, task = job.material, job.material.task
    places = validation_places(job)
    best = scored(job, job.model, "validation", places)
    with mean.in_place():
        theirs = scored(job, job.model, "validation", places)
    rows = [material.rows["validation"][i] for i in places]
    clusters = evaluation.numbers_of(rows, material.recipe.evaluation.clusters)
    metric = task.metrics[0]
    lead = task.primary_sign * evaluation.differences(task, best.table, theirs.table, clusters)[metric]
    kept = bool(np.percentile(lead, 16) <= 0)
    if kept:
        mean.settle()
    scores = {"mean": theirs.metrics[metric], "best": best.metrics[metric]}
    return {"evaluations": mean.count, "metric": metric, **scores, "kept": kept}


def validation_places(job: Job) -> list[int]:
    """The validation rows that are scored while a run trains: all, or a fixed share of them."""
    limit = job.material.recipe.evaluation.rows or (evaluation.WRITTEN if job.material.task.generates else None)
    return evaluation.subset(len(job.material.rows["validation"]), limit)


def validator(job: Job) -> Callable[[], dict[str, float]]:
    """Scores the validation rows (or a fixed share of them) in the training's precision, without intervals."""
    places = validation_places(job)

    def validate() -> dict[str, float]:
        return scored(job, job.model, "validation", places).metrics

    return validate
