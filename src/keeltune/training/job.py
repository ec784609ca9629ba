"""What trains: model, task, reference, objective and plan, together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from keeltune.models import loading
from keeltune.objective.formula import Objective
from keeltune.objective.matching.matching import Matching
from keeltune.objective.references.reference import Reference
from keeltune.tasks.common.example import Example
from keeltune.tasks.task import Task
from keeltune.training.anchor_head import AnchorHead
from keeltune.training.batch_plan import Plan
from keeltune.training.lazy_reference import LazyReference
from keeltune.training.preparation.head_compatibility import NEW
from keeltune.training.preparation.material import OLD, Material
from keeltune.training.regularizers.regularizer import Regularizer


@dataclass
class Job:
    """Everything that trains: the student, the reference, the objective and the plan."""

    material: Material
    student: loading.Loaded
    model: Any
    half: torch.dtype | None
    reference: Reference | None
    reference_source: ReferenceSource
    objective: Objective
    matching: Matching | None
    plan: Plan
    precision: str
    autocast: Callable[[], AbstractContextManager[Any]]
    device: str
    live_reference: LazyReference
    budget_examples: Sequence[Example] = ()
    anchor_head: AnchorHead | None = None
    regularizers: Sequence[Regularizer] = ()

    def of(self, split: str, model: Any) -> tuple[Task, Any]:
        """Who answers a split's rows, and scores them: the source domain's old labels are the second head's, where
        there is one, and its language is its own."""
        if self.anchor_head is not None and split in OLD:
            return self.anchor_head.task, self.anchor_head.model
        if split in OLD and self.material.source_task is not None:
            return self.material.source_task, model
        return self.material.task, model

    @property
    def budget(self) -> tuple[str | None, float | None]:
        """The recipe's budget, `max_kl` or `max_source_drop`, and its limit."""
        rule = self.material.recipe.weight_spec()
        if isinstance(rule, float | int):
            return None, None
        limits = {"max_kl": rule.max_kl, "max_source_drop": rule.max_source_drop}
        return next(((kind, limit) for kind, limit in limits.items() if limit is not None), (None, None))

    @property
    def starts_known(self) -> bool:
        """Whether the weights before training can be read again: none of them are random."""
        return not self.student.fresh and self.material.source != NEW


@dataclass(frozen=True)
class ReferenceSource:
    """Where the reference's answers come from, why, and the cache's facts. A resumed run keeps the first one's."""

    kind: str = "none"
    reason: str | None = None
    cache: dict[str, Any] | None = None


@dataclass
class Prepared:
    """What a reference and its cache need of a recipe: the student at its start, the plan, how and where models run."""

    student: loading.Loaded
    live_reference: LazyReference
    plan: Plan
    precision: str
    autocast: Callable[[], AbstractContextManager[Any]]
    device: str
