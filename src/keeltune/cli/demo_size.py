"""How many rows the demo takes: all where the machine is quick, else the share of them that fits into its time.

    seconds(share) = FIXED + share · (TRAINED · a + SCORED · b)

a: seconds a row of a training step, b: of a forward pass, both timed on the first rows with the model that is trained;
TRAINED and SCORED: the rows that all runs of the whole demo train on and score, in rows of the whole model. Fewer rows
are cut into smaller batches, so that the number of steps stays nearly what it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
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

FIXED = 45.0
"""Seconds that no share changes: imports, models loaded and saved, the optimizer's updates, reports."""

TRAINED, SCORED = 13_700, 29_500

SHARES = (1.0, 0.5, 1 / 3, 0.25, 0.2, 1 / 6, 0.125, 1 / 12)
"""The last is taken however long it is."""

REPEATS = 5
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


def choose_share(seconds_trained: float, seconds_scored: float) -> float:
    """The largest share that the timed seconds a row allow."""
    whole = TRAINED * seconds_trained + SCORED * seconds_scored
    return next((share for share in SHARES if FIXED + share * whole <= MARGIN * SECONDS), SHARES[-1])


@loading.quiet_transformers()
def timed(recipe: Recipe) -> tuple[float, float]:
    """Seconds a row of a training step and of a forward pass, on the recipe's first rows; nothing is kept of it."""
    with torch.random.fork_rng():
        job = build.build(prepare(recipe))
        batch = to_device(build.collated(job, job.plan.micro_batch(0, 0, 0)), job.device)
        rows = len(batch["targets"])
        return _quickest(_step(job, batch)) / rows, _quickest(_forward(job, batch)) / rows


def _step(job: Job, batch: dict[str, Any]) -> Callable[[], None]:
    """Forward, backward and update, in the training's precision."""
    optimizer, task = torch.optim.AdamW(job.model.parameters()), job.material.task

    def step() -> None:
        job.model.train()
        with job.autocast():
            outputs = task.forward(job.model, batch)
        task.cross_entropy(task.rows(outputs, batch), batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _forward(job: Job, batch: dict[str, Any]) -> Callable[[], None]:
    """A forward pass in float32, as rows are scored."""

    def forward() -> None:
        job.model.eval()
        with torch.inference_mode():
            job.material.task.forward(job.model, batch)

    return forward


def _quickest(run: Callable[[], None]) -> float:
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
