"""The loss of one micro-batch: the formula, and what a recipe adds to it.

    L = Σ CE / n_CE + weight · Σ D / n_D  +  Σ M / n_B  +  Σ labelled terms / n_CE  +  terms of the weights

M are matching terms (`objective/matching/`), the last two those of regularisers (`training/regularizers/`). n_CE, n_D
and n_B, the examples, are those of the whole optimizer step. With several forward passes the first three are means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from keeltune.objective import host_counts
from keeltune.objective.formula import Counts, Objective, Terms, divide
from keeltune.objective.marked import Marked
from keeltune.objective.matching.matching import Matching
from keeltune.objective.predictions import Rows
from keeltune.objective.references.model import Model
from keeltune.objective.references.reference import Reference
from keeltune.tasks.task import Task
from keeltune.training.anchor_head import AnchorHead
from keeltune.training.job import Job
from keeltune.training.regularization import forward_passes, labelled_terms
from keeltune.training.regularizers.regularizer import Regularizer
from keeltune.utils.sharded_tensors import is_sharded


class MicroBatchLoss(NamedTuple):
    """`total`: what a micro-batch adds to the step's loss; `sums`: Σ CE, Σ D, Σ M and `total`, [4]; the first pass's
    outputs of the model."""

    total: Tensor
    sums: Tensor
    outputs: Any


@dataclass(frozen=True)
class StepLoss:
    """Everything that a loss is made of.

    reference      None for plain fine-tuning
    matching       the further terms of a distillation, whose projections are the model's own parameters
    anchor_head    the second head, which carries D then
    regularizers   those of a recipe, in the order in which they are called
    autocast       around each forward pass, and nothing else
    sharded        whether processes hold a part each of the models, and so must call them alike
    """

    task: Task
    objective: Objective
    reference: Reference | None = None
    matching: Matching | None = None
    anchor_head: AnchorHead | None = None
    regularizers: Sequence[Regularizer] = ()
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    sharded: bool = False

    def counts(self, batch: Mapping[str, Any]) -> tuple[float, float]:
        """n_CE and n_D of a micro-batch; a second head counts predictions of its own."""
        labelled, anchored = host_counts.terms(batch, self.task.counts)
        if self.anchor_head is not None:
            anchored = float(len(batch["anchored_batch"]["targets"])) if "anchored_batch" in batch else 0.0
        return labelled, anchored

    def __call__(
        self,
        model: Any,
        batch: Mapping[str, Any],
        counts: Sequence[Tensor],
        *,
        weight: float | None = None,
        micro_batches: int = 1,
        repeated: bool = False,
    ) -> MicroBatchLoss:
        """One micro-batch's loss.

        Args:
            model: the student, in its wrapper where it has one. counts: n_CE, n_D and n_B of the step.
            weight: of D, where a budget has moved it. micro_batches: of a step, over all ranks.
            repeated: the second time at perturbed embeddings: the formula alone and what needs one pass, in one pass.
        """
        n_ce, n_d, n_b = counts
        matching = None if repeated else self.matching
        inputs = batch if matching is None else matching.requesting(batch)
        with self.autocast():
            passes = 1 if repeated else forward_passes(self.regularizers)
            outputs = [self.task.forward(model, inputs) for _ in range(passes)]
        students = [self.task.rows(of_pass, batch) for of_pass in outputs]
        matched = torch.zeros((), device=n_b.device)
        if matching is None:
            reference = self._reference(batch)
        else:
            assert isinstance(self.reference, Model)
            of_reference = self.reference.outputs(inputs)
            reference = self.reference.read(of_reference, batch)
            matched = torch.stack([matching(of_pass, of_reference, batch) for of_pass in outputs]).mean(0)
        objective = self.weighted(weight)
        terms = [self._formula(objective, student, reference, batch, Counts(n_ce, n_d)) for student in students]
        loss, cross_entropy, divergence = torch.stack([torch.stack(of_pass) for of_pass in terms]).mean(0)
        total = loss + matched / n_b
        labelled = labelled_terms(self.regularizers, students, batch)
        if labelled is not None:
            total = total + divide(labelled, n_ce)
        for penalty in () if repeated else [regularizer.on_weights() for regularizer in self.regularizers]:
            total = total if penalty is None else total + penalty / micro_batches  # each carries its share
        return MicroBatchLoss(total, torch.stack([cross_entropy, divergence, matched, total]), outputs[0])

    def weighted(self, weight: float | None) -> Objective:
        """The objective, with the weight that a budget has reached; None: its own."""
        return self.objective if weight is None else replace(self.objective, weight=weight)

    def _reference(self, batch: Mapping[str, Any]) -> Rows | None:
        """The reference's predictions; nothing is computed where no row of the micro-batch carries D, unless other
        processes, whose rows may, need this one's part of its weights."""
        anchored = self.sharded or len(host_counts.anchored(batch)) > 0
        return self.reference.rows(batch.get("anchored_batch", batch)) if self.reference and anchored else None

    def _formula(
        self, objective: Objective, student: Rows, reference: Rows | None, batch: Mapping[str, Any], counts: Counts
    ) -> Terms:
        """The formula of one pass; D is the second head's where there is one, of all that it reads."""
        sliced = self.task.sliced_cross_entropy(batch)
        cross_entropy = self.task.cross_entropy(student, batch) if sliced is None or self.anchor_head else sliced
        anchored: Marked | None = host_counts.anchored(batch)
        if self.anchor_head is not None and reference is not None:
            with self.autocast():
                second = self.anchor_head.task.forward(self.anchor_head.model, batch["anchored_batch"])
            student, anchored = self.anchor_head.task.rows(second, batch["anchored_batch"]), None
        return objective(cross_entropy, student, reference, anchored, counts=counts)


def step_loss(job: Job) -> StepLoss:
    """The loss of a job's training."""
    return StepLoss(
        job.material.task,
        job.objective,
        job.reference,
        job.matching,
        job.anchor_head,
        job.regularizers,
        job.autocast,
        is_sharded(job.model),
    )
