"""When a run is evaluated, and when it is stopped early."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keeltune.training.preparation.material import Material


@dataclass(frozen=True)
class EvaluationSchedule:
    """How often a run is measured on its validation rows, and when that ends it.

    `every`: steps between evaluations, None for each epoch. `patience`: evaluations without a gain after which training
    ends, None for never, and not before step `not_before`. `averages`: what is measured and kept is the mean of the
    weights of two evaluations in a row.
    """

    every: int | None = None
    patience: int | None = None
    not_before: int = 0
    averages: bool = False

    def out_of_patience(self, keys: Sequence[tuple[float, float]], step: int) -> bool:
        """Whether the last `patience` evaluations, of these selection keys, brought no gain, past step `not_before`."""
        if self.patience is None or step < self.not_before or not keys:
            return False
        return len(keys) - 1 - keys.index(max(keys)) >= self.patience


def selection_keys(
    history: Sequence[Mapping[str, float]], prefix: str, metric: str, sign: float
) -> list[tuple[float, float]]:
    """(primary metric, −loss) of each evaluation of a training's history: the largest is the best, the first of equals.

    `sign`: −1 where a smaller metric is better. Rows without a loss (answered in parts) leave the metric alone.
    """
    primary = f"{prefix}_{metric}"
    return [(sign * entry[primary], -entry.get(f"{prefix}_loss", 0.0)) for entry in history if primary in entry]


EVALUATIONS = 10
"""How often a run is measured on its validation rows where that is cheap."""

CHEAP = 0.1
"""The share of training's cost that these evaluations may have; a forward pass is a third of a training step."""

PATIENCE = 5
"""Evaluations without a gain after which training ends early, unless the recipe says otherwise."""

NOT_BEFORE = 0.4
"""The share of the steps before which it never does: the warm-up and what follows it."""


def evaluation_schedule(material: Material) -> EvaluationSchedule:
    """The recipe's `evaluation.every` and `patience`; where they are auto, what the rows suggest."""
    spec, training = material.recipe.evaluation, material.recipe.training
    patience = PATIENCE if spec.patience == "auto" else spec.patience
    steps = material.steps
    not_before = math.ceil(NOT_BEFORE * steps) if spec.patience == "auto" else 0
    every = spec.every if isinstance(spec.every, int) else None
    examples = len(material.examples["validation"][: spec.rows])
    epochs = steps / material.steps_per_epoch if training.max_steps else training.passes
    if every is None and examples and not material.task.generates:
        trained = steps * material.batch_size * material.micro_batches
        affordable = min(EVALUATIONS, int(CHEAP * 3 * trained / examples))
        if affordable > epochs:
            every = max(1, math.ceil(steps / affordable))
    evaluations = steps / every if every else epochs
    averages = spec.patience == "auto" and evaluations > PATIENCE + 1
    return EvaluationSchedule(every, patience, not_before, averages)
