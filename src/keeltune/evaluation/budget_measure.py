"""How a budget is measured on held-out rows: divergence, or the drop of the source metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from keeltune.evaluation import divergence, split_scores
from keeltune.evaluation.interpolation import clusters_of, drop, sampled_indices
from keeltune.evaluation.scores import Scores
from keeltune.objective.references.model import Model
from keeltune.training.budget import Budget
from keeltune.training.job import Job
from keeltune.utils.errors import Problem, UserError

UPDATES = 25
"""How often a budget's weight is adjusted in a training."""


def budget(job: Job, before: Mapping[str, Scores | None]) -> Budget | None:
    """The recipe's budget; None where the weight is a number. UserError where it, or a point between, cannot be had."""
    kind, limit = job.budget
    recipe = job.material.recipe
    if kind == "max_source_drop" and before["source_validation"] is None:
        found, expected = "a head that is new, so that there is no source score to fall from", "max_kl, or a number"
        where = recipe.where("objective.weight")
        raise UserError(Problem(where, "objective.weight", found, expected, "write {max_kl: 0.05}, say"))
    if recipe.training.interpolate not in (None, "auto") and not job.starts_known:
        found, expected = "weights that are drawn at random before training", "a start that knows this task"
        where = recipe.where("training.interpolate")
        raise UserError(Problem(where, "training.interpolate", found, expected, "leave it out"))
    if kind is None or limit is None:
        return None
    measured = measured_budget(job, before)
    return Budget(kind, limit, lambda: measured(job.model, None), max(1, job.material.steps // UPDATES))


Measured = Callable[[Any, Model | None], float]


def measured_budget(job: Job, before: Mapping[str, Scores | None]) -> Measured:
    """What the budget bounds, of a model; the reference is the job's own unless one is handed over."""
    kind, _ = job.budget
    task = job.material.task
    if kind == "max_kl":

        def divergence_from(model: Any, reference: Model | None) -> float:
            anchor = reference or job.reference
            assert anchor is not None
            objective = replace(job.objective, per_label=False)
            reader, student = (
                (task, model) if job.anchor_head is None else (job.anchor_head.task, job.anchor_head.model)
            )
            (value,), _ = divergence.divergence(
                reader, [objective], student, anchor, job.budget_examples, device=job.device, autocast=job.autocast
            )
            return value

        return divergence_from
    start = before["source_validation"]
    assert start is not None
    indices = sampled_indices(job, "source_validation")
    clusters = clusters_of(job, "source_validation", indices)

    def drop_since(model: Any, reference: Model | None) -> float:
        after = split_scores.scored(job, model, "source_validation", indices)
        task, _ = job.of("source_validation", model)
        return drop(task, start.table[indices], after.table, task.metrics[0], clusters)["upper"]

    return drop_since
