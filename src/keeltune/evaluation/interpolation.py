"""The straight line in weight space from where a run started to where it ended.

    θ(γ) = start + γ · (tuned − start)

Points between often keep most of what was learnt and most of what was known, and cost no training. Source: Wortsman et
al. 2022, WiSE-FT, https://arxiv.org/abs/2109.01903. A budget ends on it too: what is beyond is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keeltune.data import dataset
from keeltune.data.clusters import numbers_of
from keeltune.evaluation import scores, split_scores
from keeltune.evaluation.scores import Scores
from keeltune.tasks.task import Task
from keeltune.training.job import Job
from keeltune.utils.messages import Message
from keeltune.utils.progress import Display

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

ROWS = 500
"""Rows of a split at most that a point is scored on; where answers are written, `evaluation.WRITTEN`."""

UPPER = 90.0
"""The percentile of the bootstrap that bounds a drop from above."""


class Interpolation:
    """A model that can be moved between its start and where training left it; `start` holds the start's weights."""

    def __init__(self, model: Any, start: Mapping[str, Tensor]):
        self.model = model
        self.tuned = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.start = {name: start[name] for name in self.tuned if name in start}

    @torch.no_grad()
    def go(self, share: float) -> None:
        """Puts the model at γ = `share`; what is no float, or new since the start, stays as it was tuned."""
        for name, value in self.model.state_dict().items():
            tuned = self.tuned[name]
            if share == 1 or name not in self.start or not tuned.is_floating_point():
                value.copy_(tuned)
            else:
                start = self.start[name].to(tuned.device, tuned.dtype)
                value.copy_(start if share == 0 else torch.lerp(start, tuned, share))


def drop(
    task: Task, before: np.ndarray, after: np.ndarray, metric: str, clusters: np.ndarray | None = None
) -> dict[str, float]:
    """How much worse `after` is than `before` in `metric`, and the one-sided 90 % bound of that, rows drawn in pairs.

    {"value", "upper"}; below 0 it is better.
    """
    sign = 1.0 if metric in task.lower_is_better else -1.0
    a, b = (scores.scores_of(task, table, intervals=False).metrics[metric] for table in (after, before))
    resampled = sign * scores.differences(task, after, before, clusters)[metric]
    return {"value": sign * (a - b), "upper": float(np.percentile(resampled, UPPER))}


def sweep(job: Job, path: Interpolation, display: Display) -> dict[str, Any]:
    """The scores along the path, on the validation rows of both domains, and the share that they recommend.

    {"metric", "points": [{"share", "target": {metric: value}, "source": {…}, "source_drop": {"value", "upper"}}],
    "recommended", "reason", "rows": {"target", "source"}}
    """
    task = job.material.task
    indices = {split: sampled_indices(job, split) for split in ("validation", "source_validation")}
    tables: list[dict[str, Scores]] = []
    with display.bar("between start and end", len(SHARES)) as advance:
        for share in SHARES:
            path.go(share)
            tables.append(
                {split: split_scores.scored(job, path.model, split, chosen) for split, chosen in indices.items()}
            )
            advance(1)
    path.go(1.0)
    metric = task.metrics[0]
    kind, limit = job.budget
    limit = limit if kind == "max_source_drop" else None
    clusters = clusters_of(job, "source_validation", indices["source_validation"])
    old, _ = job.of("source_validation", path.model)
    points = [
        {
            "share": share,
            "target": at["validation"].metrics,
            "source": at["source_validation"].metrics,
            "source_drop": drop(
                old, tables[0]["source_validation"].table, at["source_validation"].table, metric, clusters
            ),
        }
        for share, at in zip(SHARES, tables, strict=True)
    ]
    share, reason = recommended(points, metric, task.primary_sign, limit)
    counts = {"target": len(indices["validation"]), "source": len(indices["source_validation"])}
    return {"metric": metric, "points": points, "recommended": share, "reason": reason, "rows": counts}


def recommended(
    points: Sequence[Mapping[str, Any]], metric: str, sign: float, max_drop: float | None
) -> tuple[float, str]:
    """The share to take, and by what rule: under a budget the best target score that keeps it, else both domains' mean.

    Of equal points the one nearer to the tuned weights.
    """
    if max_drop is not None:
        within = [p for p in points if p["share"] == 0 or p["source_drop"]["upper"] <= max_drop]
        best = max(within, key=lambda p: (sign * p["target"][metric], p["share"]))
        template = "the best {metric} on the target whose source drop stays below {limit:g}"
        return best["share"], Message(template, metric=metric, limit=max_drop)
    best = max(points, key=lambda p: (sign * (p["target"][metric] + p["source"][metric]), p["share"]))
    return best["share"], Message("the best mean {metric} of target and source", metric=metric)


def largest_within(path: Interpolation, holds: Callable[[], bool], *, halvings: int = 6) -> float:
    """The share, found by halving, up to which `holds` is true of the path's model; the model is left there.

    `holds` is taken for true at the start, where nothing has changed.
    """
    path.go(1.0)
    if holds():
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(halvings):
        middle = (low + high) / 2
        path.go(middle)
        low, high = (middle, high) if holds() else (low, middle)
    path.go(low)
    return low


def sampled_indices(job: Job, split: str) -> list[int]:
    """Which rows of a split a point is scored on."""
    limit = scores.WRITTEN if job.material.task.generates else ROWS
    return dataset.subset(len(job.material.rows[split]), limit)


def clusters_of(job: Job, split: str, indices: Sequence[int]) -> np.ndarray | None:
    """The clusters of some rows of a split; None where all rows stand alone."""
    rows = [job.material.rows[split][i] for i in indices]
    return numbers_of(rows, job.material.recipe.evaluation.clusters)
