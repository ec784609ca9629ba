"""`result.json`, the contract that tools read, and how files are written: whole or not at all."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from keeltune.data import dataset
from keeltune.evaluation.scores import Scores
from keeltune.training.job import Job
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.distributed import world_size
from keeltune.utils.version import __version__


def result(
    job: Job,
    trainer: KeelTrainer,
    before: Mapping[str, Scores | None],
    after: Mapping[str, Scores | None],
    judged: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The `result.json` of a run that is done; `before` and `after` hold the scores of each split.

    `judged` is what `gate.judge` found.
    """
    recipe, training_totals = job.material.recipe, trainer.training_totals
    cross_entropy, divergence, matched, _ = trainer.means(training_totals.epoch)
    n_ce, n_d = training_totals.epoch[4:6]
    examples, tokens, slots, predictions = training_totals.work
    seconds = training_totals.seconds
    anchored = job.reference is not None
    name = recipe.objective.divergence_name
    return empty() | {
        "keeltune": __version__,
        "task": recipe.task,
        "method": recipe.method,
        "status": "completed",
        "metrics": {
            "validation": _metrics(after["validation"]),
            "test": _metrics(after["test"], details=True),
            "source": {"before": _metrics(before["source"]), "after": _metrics(after["source"])},
            "before": {"validation": _metrics(before["validation"]), "test": _metrics(before["test"])},
        },
        "intervals": {
            "validation": _intervals(after["validation"]),
            "test": _intervals(after["test"]),
            "source": {"before": _intervals(before["source"]), "after": _intervals(after["source"])},
        },
        "objective": {
            "cross_entropy": cross_entropy if n_ce else None,
            "divergence": divergence if n_d else None,
            "weight": trainer.formula.weight if anchored else None,
            "divergence_name": name if anchored else None,
            "temperature": job.objective.temperature if anchored else None,
            **({"matching": matched} if job.matching is not None else {}),
        },
        "reference": {
            "kind": job.origin.kind,
            "models": _reference_models(job) if recipe.reference_spec() is not None else [],
            "cache": job.origin.cache,
            "reason": job.origin.reason,
            "gate": judged,
        },
        "training": {
            "seconds": seconds,
            "steps": trainer.state.global_step,
            "examples": int(examples),
            "examples_per_second": examples / seconds if seconds else None,
            "tokens_per_second": tokens / seconds if seconds else None,
            "predictions_per_second": predictions / seconds if seconds else None,
            "padding_share": 1 - tokens / slots if slots else None,
            "precision": job.precision,
            "peak_memory_bytes": _peak_memory(),
            "seed": recipe.seed,
            "world_size": world_size(),
            "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            **({"regularizers": used} if (used := trainer.used_regularizers) else {}),
        },
        "data": {
            split: {"rows": len(rows), "fingerprint": dataset.fingerprint(rows)} if rows else None
            for split, rows in job.material.rows.items()
        }
        | {"skipped": len(job.material.skipped)},
        "environment": environment(),
    }


def _reference_models(job: Job) -> list[str]:
    spec = job.material.recipe.reference_spec()
    if spec is not None and spec.origin == "served":
        return [str(spec.model)]
    return [files.source for files in job.material.references] or [job.material.source]


def empty() -> dict[str, Any]:
    """`result.json` with every key and nothing in it: the shape of a run that ended early."""
    pair = {"before": None, "after": None}
    return {
        "keeltune": None,
        "task": None,
        "method": None,
        "status": None,
        "metrics": {
            "validation": None,
            "test": None,
            "source": dict(pair),
            "before": {"validation": None, "test": None},
        },
        "intervals": {"validation": None, "test": None, "source": dict(pair)},
        "objective": None,
        "reference": None,
        "veto": None,
        "budget": None,
        "interpolation": None,
        "forgetting": None,
        "overfitting": None,
        "calibration": None,
        "bias": None,
        "seeds": None,
        "training": None,
        "data": None,
        "audit": None,
        "environment": None,
    }


def _metrics(scores: Scores | None, *, details: bool = False) -> dict[str, Any] | None:
    return None if scores is None else {**scores.metrics, **(scores.details if details else {})}


def _intervals(scores: Scores | None) -> dict[str, Any] | None:
    return None if scores is None else {name: list(pair) for name, pair in scores.intervals.items()}


def environment() -> dict[str, Any]:
    """Versions and machine, as `result.json` and `keeltune doctor` report them."""
    from importlib.metadata import version

    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": version("accelerate"),
        "peft": version("peft"),
        "keeltune": __version__,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)
