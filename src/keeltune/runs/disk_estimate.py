"""How many bytes a run will write, before it is started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keeltune.training.early_stopping import evaluation_schedule
from keeltune.training.optimizer_state import moments_of
from keeltune.training.preparation.material import SCORED, Material
from keeltune.utils.disk_space import bytes_in, require_room

A_ROW = 1000
"""Bytes of a row in a file of predictions, on average."""

A_CHECKPOINT = 64_000
"""Bytes of a checkpoint beside its tensors: their names, the random state, the history."""

THE_REST = 1_000_000
"""Bytes of what is small: the tokenizer, the log, the pages."""

GONE = ("checkpoints", "best weights")
"""What a finished run has no more, unless the recipe keeps it."""


def bytes_of_run(material: Material, model: Any, *, half: bool) -> dict[str, int]:
    """The most bytes that lie in a run's folder at one time, by what they are.

    A checkpoint holds the weights that train, the optimizer's moments of them and what is averaged; one more than are
    kept is there while it is staged, and best weights beside each.

    Args:
        model: the one that trains, or its skeleton. half: whether the source is stored in half precision.
    """
    recipe, schedule = material.recipe, evaluation_schedule(material)
    trained = sum(4 * weight.numel() for weight in model.parameters() if weight.requires_grad)
    whole = sum(weight.numel() for weight in model.parameters())
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    copies = _checkpoints(material, schedule.every)
    surely_half = half and recipe.training.save_dtype == "source"  # auto: known at the end
    stored = whole * (2 if surely_half else 4) + buffers
    scored = [*(material.rows[split] for split in SCORED), *(test.rows for test in material.named_tests)]
    rows = 2 * (sum(map(len, scored)) + sum(task.rows for task in material.harness))
    return {
        "checkpoints": copies * bytes_of_checkpoint(material, model),
        "best weights": copies * (trained + buffers) if material.rows["validation"] else 0,
        "model": stored + (trained if recipe.training.lora is not None else 0),
        "source model": stored if material.anchor_task is not None else 0,
        "predictions and the rest": A_ROW * rows + THE_REST,
    }


def bytes_of_checkpoint(material: Material, model: Any) -> int:
    """Those of one checkpoint: what trains, its moments, what is averaged."""
    recipe = material.recipe
    trained = sum(4 * weight.numel() for weight in model.parameters() if weight.requires_grad)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    moments = moments_of(str(recipe.training.passed.get("optim", "")))
    averages = int(evaluation_schedule(material).averages) + int("weight_average" in recipe.training.all_regularizers)
    return int(trained * (1 + moments + averages)) + buffers + A_CHECKPOINT


def left_of(material: Material, parts: Mapping[str, int]) -> int:
    """The bytes of `bytes_of_run` that a finished run leaves."""
    kept = material.recipe.training.keep_checkpoints
    return sum(number for name, number in parts.items() if kept or name not in GONE)


def _checkpoints(material: Material, every: int | None) -> int:
    """How many checkpoints lie there at one time, at most."""
    passed = material.recipe.training.passed
    if passed.get("save_strategy") == "no":
        return 0
    steps = float(passed.get("save_steps", every or material.steps_per_epoch))
    steps = math.ceil(steps * material.steps) if steps < 1 else steps
    saved = math.ceil(material.steps / steps)
    return min(saved, (passed.get("save_total_limit", 2) or saved) + 1)


def refuse_if_short(material: Material, model: Any, folder: Path, *, half: bool) -> None:
    """Raises OutOfResources where the disk of a run's folder cannot take the run; what lies there already counts."""
    parts = bytes_of_run(material, model, half=half)
    needed = sum(parts.values()) - bytes_in(folder)
    listed = ", ".join(f"{name} {number}" for name, number in parts.items() if number)
    require_room(folder, needed, f"the run ({listed})")
