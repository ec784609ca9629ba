"""Texts that the student writes itself while it trains (on-policy distillation): sampled before anything is counted."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from keeltune.objective.host_counts import with_counts
from keeltune.tasks.common.batches import to_device
from keeltune.tasks.common.example import NOTE_SAMPLE, Example
from keeltune.training.step_loss import StepLoss
from keeltune.utils.device import in_eval_mode


def with_own_texts(batch: dict[str, Any], student: Any, step_loss: StepLoss, key: str, device: Any) -> dict[str, Any]:
    """A batch whose texts the student samples itself; other batches as they are.

    Eval mode, no gradient: nothing is propagated through the sampling. The texts are a function of the weights and of
    `key` (the seed, the step, the rank and the micro-batch), and the random state is left as it was.
    """
    if "examples" not in batch:
        return batch
    examples: list[Example] = batch["examples"]
    without_text = [i for i, example in enumerate(examples) if NOTE_SAMPLE in example.notes]
    if without_text:
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
        with in_eval_mode(student), torch.random.fork_rng(), step_loss.autocast():
            torch.manual_seed(seed)
            written = step_loss.task.sample(student, [examples[i] for i in without_text], str(device))
        for i, example in zip(without_text, written, strict=True):
            examples[i] = example
    task = step_loss.task
    return to_device(with_counts(task.collate_anchored(examples), task.counts), device)
