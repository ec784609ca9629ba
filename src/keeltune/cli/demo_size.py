"""How many rows the demo takes: all where the machine is quick, else the share of them that fits into its time.

    seconds(share) = FIXED + UPDATES · c + share · (TRAINED · a + SCORED · b)

a: seconds a row of forward and backward passes in training, b: of forward passes in float32, as rows are scored, c: of
an update of the weights; all are timed on rows of the demo, with the model that it trains. TRAINED and SCORED: the rows
of the whole demo's runs, in rows of that model, a third of the scored ones for what is done with an answer; UPDATES:
their steps. Fewer rows are cut into smaller batches, so that
the number of steps stays nearly what it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from keeltune.models import loading
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common.batches import to_device
from keeltune.training import build
from keeltune.training.job import Job
from keeltune.training.preparation.prepare import prepare

SECONDS = 300.0
"""What the demo may take in all."""

MARGIN = 0.85
"""The share of it that is planned with: a few timed steps say little of the minutes that follow."""

FIXED = 30.0
"""Seconds that no share changes: imports, models loaded and saved, reports."""

TRAINED, SCORED, UPDATES = 13_700, 45_000, 320

SHARES = (1.0, 0.5, 1 / 3, 0.25, 0.2, 1 / 6, 0.125, 1 / 12)
"""The last is taken however long it is."""

REPEATS = 3
"""Timed passes, of which the quickest counts, after one that does not."""


@dataclass(frozen=True)
class DemoSize:
    """Rows of each file, and of a step; `share`: of the whole demo."""

    share: float
    source: int
    target: int
    unlabeled: int
    validation: int
    test: int
    batch_size: int

    @property
    def rows(self) -> dict[str, int]:
        """The files' rows, as `demo_data.write` names them."""
        return {name: rows for name, rows in asdict(self).items() if name not in ("share", "batch_size")}


def size_of(share: float) -> DemoSize:
    """The whole demo's rows times a share, in even numbers: half of them are positive."""

    def rows(whole: int) -> int:
        return max(20, 2 * round(share * whole / 2))

    batch_size = max(8, 2 ** math.ceil(math.log2(32 * share)))
    return DemoSize(share, rows(1200), rows(400), rows(1600), rows(200), rows(400), batch_size)


@dataclass(frozen=True)
class Speed:
    """Seconds: of a row in training, of a scored row, of an update of the weights."""

    trained: float
    scored: float
    update: float

    def seconds(self, share: float) -> float:
        """What a share of the demo takes."""
        return FIXED + UPDATES * self.update + share * (TRAINED * self.trained + SCORED * self.scored)


def choose_share(speed: Speed) -> float:
    """The largest share that fits."""
    return next((share for share in SHARES if speed.seconds(share) <= MARGIN * SECONDS), SHARES[-1])


@loading.quiet_transformers()
def timed(recipe: Recipe) -> Speed:
    """How quick this machine is with a recipe's model, on the first epoch's steps; nothing is kept of them."""
    with torch.random.fork_rng():
        job = build.build(prepare(recipe))
        steps = max(1, len(job.plan.examples) // job.plan.step_size)
        examples = [job.plan.micro_batch(0, step, 0) for step in range(steps)]
        batches = [to_device(build.collated(job, step), job.device) for step in examples]
        optimizer, rows = torch.optim.AdamW(job.model.parameters(), fused=True), sum(map(len, examples))
        return Speed(
            _quickest(partial(_learn, job, batches)) / rows,
            _quickest(partial(_forward, job, batches)) / rows,
            _quickest(optimizer.step),
        )


def _learn(job: Job, batches: Sequence[dict[str, Any]]) -> None:
    """Forward and backward passes, in the training's precision."""
    task = job.material.task
    job.model.train()
    for batch in batches:
        with job.autocast():
            outputs = task.forward(job.model, batch)
        task.cross_entropy(task.rows(outputs, batch), batch).backward()


@torch.inference_mode()
def _forward(job: Job, batches: Sequence[dict[str, Any]]) -> None:
    job.model.eval()
    for batch in batches:
        job.material.task.forward(job.model, batch)


def _quickest(run: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
