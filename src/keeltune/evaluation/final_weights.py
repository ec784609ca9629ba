"""Which weights a run keeps: the last, the best, or a point between the start and the end."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keeltune.evaluation.budget_measure import measured_budget
from keeltune.evaluation.interpolation import Interpolation, largest_within, sweep
from keeltune.evaluation.scores import Scores
from keeltune.objective.references.model import Model
from keeltune.training.job import Job
from keeltune.training.student import start_in_float32
from keeltune.utils.progress import Display


@dataclass
class FinalWeights:
    """Where the weights were left on the path from start to end, and what was seen there; `source` is the start.

    `half`: what they are stored in, None for float32; `lost`: the share of what was learnt that a half precision takes.
    """

    share: float = 1.0
    interpolation: dict[str, Any] | None = None
    measured: float | None = None
    source: Model | None = None
    half: torch.dtype | None = None
    lost: float | None = None


def choose_weights(job: Job, model: Any, before: Mapping[str, Scores | None], display: Display) -> FinalWeights:
    """Moves the model to the point of the path that the recipe asks for; a budget that is overdrawn is kept there."""
    recipe, material = job.material.recipe, job.material
    requested, (kind, limit) = recipe.training.interpolate, job.budget
    two = bool(material.rows["validation"] and material.rows["source_validation"])
    reports = bool(material.rows["source"] or material.rows["source_validation"])
    moves = isinstance(requested, float) or (requested is not None and two)
    if not (kind or reports or moves):
        return FinalWeights()
    if not job.starts_known:
        return FinalWeights(measured=measured_budget(job, before)(model, None) if kind else None)
    path = Interpolation(model, start_weights(job))
    final = FinalWeights(source=_source_model(job, path))
    if moves and two:
        final.interpolation = sweep(job, path, display)
    if kind is not None and limit is not None:
        measured, anchor = measured_budget(job, before), final.source if material.reference_is_start else None
        # from another reference the start may be farther than the end
        if kind != "max_kl" or material.reference_is_start:
            final.share = largest_within(path, lambda: measured(model, anchor) <= limit)
        final.measured = measured(model, anchor)
    elif isinstance(requested, float):
        final.share = requested
    elif requested == "recommended" and final.interpolation is not None:
        final.share = final.interpolation["recommended"]
    path.go(final.share)
    if final.interpolation is None and final.share != 1 and not kind:
        final.interpolation = {"metric": material.task.metrics[0], "points": [], "recommended": None, "reason": None,
                               "rows": {"target": 0, "source": 0}}  # fmt: skip
    if final.interpolation is not None:
        final.interpolation["kept"] = final.share
    return final


def budget_entry(job: Job, trajectory: Sequence[Sequence[float]], final: FinalWeights) -> dict[str, Any] | None:
    """What `result.json` reports as `budget`: {"kind", "limit", "measured" (of the weights that are kept), "held",
    "share" (of the way from the start), "trajectory": [[step, measured, weight]]}; None without one."""
    kind, limit = job.budget
    if kind is None or limit is None:
        return None
    holds = final.measured is not None and final.measured <= limit
    outcome = {"measured": final.measured, "held": holds, "share": final.share}
    return {"kind": kind, "limit": limit, **outcome, "trajectory": [list(entry) for entry in trajectory]}


def start_weights(job: Job) -> dict[str, Tensor]:
    """The weights before training, read once more; nothing in them is drawn."""
    with torch.random.fork_rng():
        return dict(start_in_float32(job.material, job.precision).model.state_dict())


def _source_model(job: Job, path: Interpolation) -> Model:
    """The model as it was before training, beside the one that was trained."""
    path.go(0.0)
    source = copy.deepcopy(path.model)
    path.go(1.0)
    task = job.material.task
    return Model(source, task.rows, job.autocast, forward=task.forward)
