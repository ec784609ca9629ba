"""A split's rows, predicted and scored as a run does it: before training, while it trains, and at its end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from keeltune.data import dataset
from keeltune.evaluation import prediction, samples, scores
from keeltune.tasks.common.example import Prediction
from keeltune.tasks.common.stored_examples import flat
from keeltune.tasks.metrics._whole import forgotten
from keeltune.training.job import Job
from keeltune.training.preparation.material import OLD, SCORED, TestSet
from keeltune.utils import distributed
from keeltune.utils.files import write_text
from keeltune.utils.progress import Display
from keeltune.utils.sharded_tensors import is_sharded


def before(job: Job, folder: Path, display: Display) -> dict[str, scores.Scores | None]:
    """The model as it was before training, scored; nothing where its head is new."""
    splits: tuple[str, ...] = () if job.student.fresh else SCORED
    splits = OLD if job.anchor_head is not None else splits  # the old head answers its own rows, whatever is new
    predictions = folder / "predictions" / "before"
    return {split: score(job, job.model, split, predictions, display) if split in splits else None for split in SCORED}


def score(job: Job, model: Any, split: str, folder: Path, display: Display) -> scores.Scores | None:
    """A split's scores, its predictions in `folder`; float32, as stock transformers computes them from `model/`."""
    rows = job.material.rows[split]
    if not rows:
        return None
    task, model = job.of(split, model)
    test = TestSet(split, task, rows, job.material.encoded[split])
    return score_set(job, model, test, folder, display, clusters=job.material.recipe.evaluation.clusters)


def score_set(
    job: Job, model: Any, test: TestSet, folder: Path, display: Display, *, clusters: str | None = None
) -> scores.Scores:
    """A set's scores, its predictions in `folder`; `clusters`: the column whose values are drawn together."""
    began = time.perf_counter()
    predictions = _answers(job, model, test, display)
    seconds = time.perf_counter() - began
    if distributed.is_main_process():
        lines = prediction.prediction_rows(test.task, predictions, test.rows, clusters=clusters)
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        write_text(folder / f"{test.name}.jsonl", text)
    return replace(scores.score(test.task, predictions, test.rows, clusters=clusters), seconds=seconds)


def predict(
    job: Job, model: Any, split: str, display: Display, *, indices: Sequence[int] | None = None, fast: bool = False
) -> list[Prediction]:
    """A split's predictions, or those of some of its rows."""
    encoded = job.material.encoded[split]
    encoded = encoded if indices is None else [encoded[i] for i in indices]
    task, model = job.of(split, model)
    return _answers(job, model, TestSet(split, task, job.material.rows[split], encoded), display, fast=fast)


def _answers(job: Job, model: Any, test: TestSet, display: Display, *, fast: bool = False) -> list[Prediction]:
    """A set's predictions; several processes share the rows. `fast`: in the training's precision."""
    rank, world = int(os.environ.get("RANK", "0")), distributed.world_size()
    if is_sharded(model):  # each layer is gathered by all of them at once: all answer the same rows
        rank, world = 0, 1
    own_share = test.encoded[rank::world]
    options = {"autocast": job.autocast} if fast else {}
    with display.bar(f"scoring {test.name}", len(flat(own_share))) as advance:
        answers = prediction.predict(model, test.task, own_share, device=job.device, progress=advance, **options)  # type: ignore[arg-type]
    if world == 1:
        return answers
    shares = distributed.gathered([asdict(answer) for answer in answers], patient=False)
    return [Prediction(**shares[i % world][i // world]) for i in range(len(test.encoded))]


def scored(
    job: Job,
    model: Any,
    split: str,
    indices: Sequence[int],
    show: Callable[[list[dict[str, Any]]], None] = lambda shown: None,
) -> scores.Scores:
    """A model's scores on some rows of a split, in the training's precision, without intervals; `show` as there."""
    answers = predict(job, model, split, Display(quiet=True), indices=indices, fast=True)
    rows = [job.material.rows[split][i] for i in indices]
    task, _ = job.of(split, model)
    show(samples.samples(task, answers, rows[: samples.SHOWN]))
    return scores.score(task, answers, rows, intervals=False)


def validator(job: Job, show: Callable[[list[dict[str, Any]]], None]) -> Callable[[], dict[str, float]]:
    """Scores the validation rows (or a fixed share of them) in the training's precision, without intervals.

    `show`: is handed a few of them with their answers, each time.
    """
    rows = job.material.rows["validation"]
    limit = job.material.recipe.evaluation.rows or (scores.WRITTEN if job.material.task.generates else None)
    indices = dataset.subset(len(rows), limit)

    def validate() -> dict[str, float]:
        with forgotten():
            return scored(job, job.model, "validation", indices, show).metrics

    return validate
