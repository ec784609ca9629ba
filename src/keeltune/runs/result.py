"""`result.json`, the contract that tools read; what is absent is null, never NaN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from keeltune.data import dataset
from keeltune.evaluation.scores import Scores
from keeltune.recipe.paths import shared
from keeltune.runs.environment import environment, peak_memory
from keeltune.runs.result_shape import empty
from keeltune.tasks.task import Task
from keeltune.training.callbacks import means
from keeltune.training.job import Job
from keeltune.training.preparation.material import Material
from keeltune.training.reference_choice import model_names
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.distributed import world_size
from keeltune.utils.version import __version__


def completed(
    job: Job,
    trainer: KeelTrainer,
    before: Mapping[str, Scores | None],
    after: Mapping[str, Scores | None],
    teacher: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The `result.json` of a completed run; `before` and `after` hold the scores of each split.

    `teacher` is what `teacher_report` returned. What the analyses find (`forgetting`, `overfitting` …) is null yet.
    """
    recipe = job.material.recipe
    return (
        empty()
        | of_material(job.material)
        | of_training(job, trainer)
        | {
            "keeltune": __version__,
            "task": recipe.task,
            "method": recipe.method,
            "status": "completed",
            "metrics": _all_metrics(before, after),
            "intervals": {
                "validation": _intervals(after["validation"]),
                "test": _intervals(after["test"]),
                "source": {"before": _intervals(before["source"]), "after": _intervals(after["source"])},
            },
            "scoring": {
                "target": scoring(job.material.task),
                "source": scoring(job.of("source", None)[0]) if job.material.rows.get("source") else None,
            },
            "reference": {
                "kind": job.reference_source.kind,
                "models": model_names(job.material),
                "cache": _cache(job),
                "reason": job.reference_source.reason,
                "gate": teacher,
            },
            "generation": _generation(job, after),
            "inference": _inference(after),
        }
    )


def of_material(material: Material) -> dict[str, Any]:
    """What is known as soon as the data are read."""
    data: dict[str, Any] = {
        split: {"rows": len(rows), "fingerprint": dataset.fingerprint(rows)} if rows else None
        for split, rows in material.rows.items()
    }
    defaults = {field: asdict(default) for field, default in material.defaults.items()}
    return {"data": data | {"skipped": len(material.skipped)}, "defaults": defaults, "environment": environment()}


def of_start(before: Mapping[str, Scores | None]) -> dict[str, Any]:
    """What is known before the first step."""
    return {"metrics": _all_metrics(before, dict.fromkeys(before))}


def of_training(job: Job, trainer: KeelTrainer) -> dict[str, Any]:
    """What is known once training has ended, be it early; in all processes at once, who share their sums."""
    return {"objective": _objective(job, trainer), "training": _training(job, trainer)}


def _all_metrics(before: Mapping[str, Scores | None], after: Mapping[str, Scores | None]) -> dict[str, Any]:
    return {
        "validation": _metrics(after["validation"]),
        "test": _metrics(after["test"], details=True),
        "source": {"before": _metrics(before["source"]), "after": _metrics(after["source"])},
        "before": {"validation": _metrics(before["validation"]), "test": _metrics(before["test"])},
    }


def _cache(job: Job) -> dict[str, Any] | None:
    """The cache's facts, its folder as seen from the run's."""
    cache, recipe = job.reference_source.cache, job.material.recipe
    return None if cache is None else {**cache, "folder": shared(Path(cache["folder"]), recipe.path(recipe.output))}


def scoring(task: Task) -> dict[str, Any]:
    """How a task's answers are scored: the language, how it is known, and each metric's signature."""
    language = task.settings.language
    return {
        "language": language.code if language else None,
        "by": language.by if language else None,
        "signatures": task.scoring.signatures,
    }


def _objective(job: Job, trainer: KeelTrainer) -> dict[str, Any]:
    """The formula's terms over the final epoch, nats a prediction."""
    epoch = trainer.training_totals.epoch
    cross_entropy, divergence, matched, _ = means(epoch, trainer.args.device)
    n_ce, n_d = epoch[4:6]
    anchored = job.reference is not None
    return {
        "cross_entropy": cross_entropy if n_ce else None,
        "divergence": divergence if n_d else None,
        "weight": trainer.formula.weight if anchored else None,
        "divergence_name": job.material.recipe.objective.divergence_name if anchored else None,
        "temperature": job.objective.temperature if anchored else None,
        **({"matching": matched} if job.matching is not None else {}),
    }


def _training(job: Job, trainer: KeelTrainer) -> dict[str, Any]:
    """Time, speed, memory and size; evaluation and saving are in none of the speeds."""
    examples, tokens, slots, predictions = trainer.training_totals.work
    seconds = trainer.training_totals.seconds
    return {
        "seconds": seconds,
        "steps": trainer.state.global_step,
        "examples": int(examples),
        "examples_per_second": examples / seconds if seconds else None,
        "tokens_per_second": tokens / seconds if seconds else None,
        "predictions_per_second": predictions / seconds if seconds else None,
        "padding_share": 1 - tokens / slots if slots else None,
        "precision": job.precision,
        "peak_memory_bytes": peak_memory(),
        "seed": job.material.recipe.seed,
        "world_size": world_size(),
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "lora": _lora(job),
        **_regularizers(job, trainer),
    }


def _inference(after: Mapping[str, Scores | None]) -> dict[str, Any] | None:
    """How fast the finished model answers: the rows of the target domain that it was scored on, and the seconds that it
    took, float32 on the device of the training. Reading and encoding rows is not in it."""
    timed = [s for split in ("validation", "test") if (s := after[split]) is not None and s.seconds is not None]
    if not timed:
        return None
    return {"rows": sum(len(s.table) for s in timed), "seconds": sum(s.seconds or 0.0 for s in timed)}


def _lora(job: Job) -> dict[str, Any] | None:
    """The adapters that were trained in place of all weights."""
    lora = job.material.recipe.training.lora
    return None if lora is None else {"rank": lora.rank, "modules": lora.target_modules}


def _generation(job: Job, after: Mapping[str, Scores | None]) -> dict[str, Any] | None:
    """How texts are written, as saved with the model, what its own settings had of it and are not used, and `cut`: of
    each split the answers that came to no end within the most tokens, and all of them."""
    task = job.material.task
    if not task.generates or task.settings.auto_model == "AutoModelForCTC":
        return None
    stored = job.student.model.generation_config.to_diff_dict()
    saved = {name: value for name, value in stored.items() if name not in ("transformers_version", "lang_to_id")}
    cut = {split: [of_split.cut, len(of_split.table)] for split, of_split in after.items() if of_split is not None}
    said = {"settings": saved, "unused": task.base_choices, "cut": cut}
    return to_jsonable_python(said, fallback=str, inf_nan_mode="null")


def _regularizers(job: Job, trainer: KeelTrainer) -> dict[str, Any]:
    """Those of `training.regularizers` with their values; of those from outside, whose files a page does not import,
    also what it says of them."""
    named = job.material.recipe.training.regularizers.used
    regularizers = [regularizer for regularizer in trainer.regularizers if regularizer.name in named]
    values = {
        r.name: to_jsonable_python(r.reported(trainer.state.max_steps), fallback=str, inf_nan_mode="null")
        for r in regularizers
    }
    phrases = {r.name: r.phrase.format(value=values[r.name]) for r in regularizers if ":" in r.name}
    return ({"regularizers": values} if values else {}) | ({"regularizer_phrases": phrases} if phrases else {})


def _metrics(scores: Scores | None, *, details: bool = False) -> dict[str, Any] | None:
    return None if scores is None else {**scores.metrics, **(scores.details if details else {})}


def _intervals(scores: Scores | None) -> dict[str, Any] | None:
    return None if scores is None else {name: list(pair) for name, pair in scores.intervals.items()}
