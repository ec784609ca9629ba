"""In which precision a finished model is stored: the source's, unless that would take away what was learnt.

A weight of 0.05 moves in steps of 2.4e-4 in bfloat16 and 3e-5 in float16. A training of few steps moves it by less, and
rounded to what the source was stored in, it is where it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from keeltune.evaluation.final_weights import start_weights
from keeltune.objective.stored_predictions import name_of
from keeltune.training.job import Job
from keeltune.utils.progress import Display

MOST_LOST = 0.02
"""The share of a training's squared change that rounding may take. Rounding is noise beside the change, and noise of a
fiftieth of its square moves no score that was looked at (docs/decisions/0047)."""


def stored_precision(job: Job, model: Any, display: Display) -> tuple[torch.dtype | None, float | None]:
    """The half precision that `model/` is stored in (None: float32), and the share that it takes or would have taken.

    As `training.save_dtype` says: `source` the source's; `auto` the source's, or float32 where that takes more than
    `MOST_LOST`.
    """
    asked = job.material.recipe.training.save_dtype
    if job.half is None or asked == "fp32":
        return None, None
    lost = lost_by_rounding(model.state_dict(), start_weights(job), job.half, job.student.fresh)
    if asked == "source" or lost <= MOST_LOST:
        return job.half, lost
    half = name_of(job.half)
    display.say(
        f"model/ is stored in float32: in {half}, as its source is, rounding would take {lost:.0%} of what was learnt"
    )
    return None, lost


def lost_by_rounding(
    end: Mapping[str, Tensor], start: Mapping[str, Tensor], dtype: torch.dtype, without: Collection[str] = ()
) -> float:
    """Σ ‖round(θ) − θ‖² / Σ ‖θ − θ₀‖² over the weights that have moved: 0 where rounding to `dtype` takes nothing, 1
    where every weight falls back to where it began.

    Args: `end`, `start`: θ and θ₀ by their names; `without`: names whose start says nothing.
    """
    rounded = changed = 0.0
    for name, weight in end.items():
        before = start.get(name)
        if before is None or name in without or not weight.is_floating_point() or before.shape != weight.shape:
            continue
        weight = weight.float()
        moved = weight - before.to(weight)
        if (size := moved.square().sum(dtype=torch.float64).item()) > 0:
            changed += size
            rounded += (weight.to(dtype).float() - weight).square().sum(dtype=torch.float64).item()
    return rounded / changed if changed else 0.0
