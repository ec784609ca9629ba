"""The recipe's `training` as `transformers.TrainingArguments`."""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import Any

import torch.distributed
from transformers import TrainingArguments

from keeltune.recipe.training_fields import Training
from keeltune.training.tracking import RecipeArguments
from keeltune.utils.device import device_note
from keeltune.utils.distributed import leave_group

ON_CPUS = {"ddp_backend": "gloo", "use_cpu": True}
"""What several processes without a GPU need: accelerate takes them for single ones otherwise, and each would train
alone on its share of the rows, with the counts of all."""


LOGGED = 10
"""Steps between two entries of the log, where a run has `ENTRIES` times as many or more."""

ENTRIES = 30

NEW_NAMES = {
    old: old.replace("gradient", "activation")
    for old in ("gradient_checkpointing", "gradient_checkpointing_kwargs")
    if old.replace("gradient", "activation") in TrainingArguments.__dataclass_fields__
}
"""Fields that a recipe names as everyone does, and what the installed transformers calls them."""


def training_arguments(
    folder: Path, training: Training, *, batch_size: int, every: int | None, seed: int, steps: int | None = None
) -> RecipeArguments:
    """Our fields as the Trainer's, and those that a recipe passes on unchanged.

    `batch_size`: examples of one forward pass on one process, also where the recipe counts tokens. `every`: steps
    between evaluations; checkpoints are written there too, after them (None: none are). `seed`: one, where the recipe
    has several. `steps`: of the whole run, since a short one is logged more often. Mixed precision is not the
    Trainer's: the autocast context is ours, around the forward pass alone.
    """
    passed = {NEW_NAMES.get(name, name): value for name, value in training.passed.items()}
    defaults: dict[str, Any] = {
        "weight_decay": 0.01,
        "warmup_steps": 0.1,  # below 1: a share of all steps
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
        "logging_steps": min(LOGGED, max(1, (steps or LOGGED * ENTRIES) // ENTRIES)),
        "logging_first_step": True,
        "report_to": "none",
        # an epoch's end is a step too: one that evaluates does so before it is saved
        **({"save_strategy": "steps", "save_steps": every} if every else {"save_strategy": "no"}),
        "save_total_limit": 2,
    }
    atexit.unregister(leave_group)
    atexit.register(leave_group)
    return RecipeArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        num_train_epochs=training.passes,
        max_steps=training.max_steps or -1,
        learning_rate=training.rates[0],
        seed=seed,
        eval_strategy="no",  # the callback `EvaluateEvery` does; the Trainer's own wants a data set of its kind
        bf16=False,
        fp16=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        ddp_broadcast_buffers=False,  # none changes while training, and two passes before a backward pass forbid it
        logging_nan_inf_filter=False,
        accelerator_config={"even_batches": False, "non_blocking": torch.cuda.is_available()},
        restore_callback_states_from_checkpoint=True,
        **(ON_CPUS if "RANK" in os.environ and not torch.cuda.is_available() else {}),
        **({"use_cpu": True} if device_note() else {}),  # else the Trainer would take what nothing else is on
        **{**defaults, **passed},
    )
