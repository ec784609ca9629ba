"""How many bytes a run will write, before it is started."""

from __future__ import annotations

import math
from pathlib import Path

from transformers import TrainingArguments

from keeltune.training.early_stopping import EvaluationSchedule
from keeltune.training.job import Job
from keeltune.training.preparation.material import SCORED
from keeltune.utils.disk_space import bytes_in, require_room

MOMENTS = {"adafactor": 0.1, "8bit": 0.5, "4bit": 0.25, "sgd": 1.0, "lion": 1.0, "rmsprop": 1.0, "adagrad": 1.0}
"""Numbers that an optimizer keeps of each weight, by a part of its name; the others are Adam's kind and keep two."""

A_ROW = 1000
"""Bytes of a row in a file of predictions, on average."""

A_CHECKPOINT = 64_000
"""Bytes of a checkpoint beside its tensors: their names, the random state, the history."""

THE_REST = 1_000_000
"""Bytes of what is small: the tokenizer, the log, the pages."""


def bytes_of_run(job: Job, arguments: TrainingArguments, schedule: EvaluationSchedule) -> dict[str, int]:
    """The most bytes that lie in a run's folder at one time, by what they are.

    A checkpoint holds the weights that train, the optimizer's moments of them and what is averaged; one more than are
    kept is there while it is staged, and best weights beside each.
    """
    trained = sum(4 * weight.numel() for weight in job.model.parameters() if weight.requires_grad)
    whole = sum(weight.numel() for weight in job.model.parameters())
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in job.model.buffers())
    moments = next((n for part, n in MOMENTS.items() if part in str(arguments.optim)), 2.0)
    averages = int(schedule.averages) + int("weight_average" in job.material.recipe.training.all_regularizers)
    copies = _checkpoints(job, arguments)
    keeps_best = bool(job.material.rows["validation"])
    model = whole * (2 if job.half is not None else 4) + buffers
    material = job.material
    scored = [*(material.rows[split] for split in SCORED), *(test.rows for test in material.named_tests)]
    rows = 2 * (sum(map(len, scored)) + sum(task.rows for task in material.harness))
    return {
        "checkpoints": copies * (int(trained * (1 + moments + averages)) + buffers + A_CHECKPOINT),
        "best weights": copies * (trained + buffers) if keeps_best else 0,
        "model": model + (trained if job.material.recipe.training.lora is not None else 0),
        "source model": model if job.anchor_head is not None else 0,
        "predictions and the rest": A_ROW * rows + THE_REST,
    }


def _checkpoints(job: Job, arguments: TrainingArguments) -> int:
    """How many checkpoints lie there at one time, at most."""
    if str(arguments.save_strategy) in ("no", "SaveStrategy.NO"):
        return 0
    every = float(arguments.save_steps)
    every = math.ceil(every * job.material.steps) if every < 1 else every
    saved = math.ceil(job.material.steps / every)
    return min(saved, (arguments.save_total_limit or saved) + 1)


def refuse_if_short(job: Job, arguments: TrainingArguments, schedule: EvaluationSchedule, folder: Path) -> None:
    """Raises OutOfResources where the disk of a run's folder cannot take the run; what lies there already counts."""
    parts = bytes_of_run(job, arguments, schedule)
    needed = sum(parts.values()) - bytes_in(folder)
    listed = ", ".join(f"{name} {number}" for name, number in parts.items() if number)
    require_room(folder, needed, f"the run ({listed})")
