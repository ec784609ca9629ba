"""The formula.

    L(θ) = Σ CE / n_CE  +  weight · Σ D( P(·|x;θ) ‖ R(·|x) ) / n_D          CE = −log P(y|x;θ)

| method               | reference R                            | weight |
| -------------------- | -------------------------------------- | ------ |
| fine-tuning          | none                                   | –      |
| distillation         | a teacher, or several                  | λ      |
| cross-domain         | the source-domain model, frozen        | α      |

The method is a value: the caller hands the objective a reference, or none. Sums run over the predictions of one
micro-batch; n_CE and n_D count the whole optimizer step, all its micro-batches and ranks, so that 4 rows, 2 × 2
accumulated rows and 2 ranks × 2 rows give the same gradient. No sum is divided twice.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from keeltune.objective.derived_predictions import Held
from keeltune.objective.marked import Marked
from keeltune.objective.predictions import PerSlice, Rows, slices
from keeltune.utils import registry


class Counts(NamedTuple):
    """n_CE, the labelled predictions of an optimizer step (their class weights' sum), and n_D, its anchored ones."""

    cross_entropy: Tensor | float
    divergence: Tensor | float


class Terms(NamedTuple):
    """What one micro-batch adds to a step: the loss to call `backward` on, and its two undivided sums in nats."""

    loss: Tensor
    cross_entropy: Tensor
    divergence: Tensor


@dataclass(frozen=True)
class Objective:
    """L = Σ CE / n_CE + weight · Σ D / n_D.

    `divergence` is a name of `objective/divergences/`, or a function of log-probabilities [N, C], [N, C] -> [N] nats.
    `temperature` T divides the logits of both sides; T² multiplies value and gradient, which keeps the gradient's size
    (Hinton et al. 2015, https://arxiv.org/abs/1503.02531). `per_label` is for a weight that was derived from a labelled
    row's own ratio of the two terms: it is kept by multiplying the weight by min(1, n_D / n_CE) of the step.
    `size` predictions are compared at a time (None: as many as hold 2^24 numbers); it bounds memory, changes no value.

        objective = kt.Objective("reverse-kl", weight=0.29)
        student = kt.Dense(model(**inputs).logits)                                                  # [N, C]
        terms = objective(kt.cross_entropy(student, targets), student, reference, counts=kt.Counts(n, n))
        terms.loss.backward()
    """

    divergence: str | Callable[[Tensor, Tensor], Tensor] = "reverse-kl"
    weight: float = 1.0
    temperature: float = 1.0
    per_label: bool = False
    size: int | None = None

    def __call__(
        self,
        cross_entropy: Tensor | PerSlice,
        student: Rows,
        reference: Rows | None = None,
        anchored: Tensor | Marked | None = None,
        *,
        counts: Counts,
    ) -> Terms:
        """One micro-batch's terms.

        Args:
            cross_entropy: Σ CE of the micro-batch, a sum in nats (`predictions.cross_entropy`, or a task's own); or
                a function of a slice's log-probabilities [n, C] and the slice that gives its sum: both terms are then
                made of one reading of the student's rows (`predictions.sliced_cross_entropy`).
            student: its N predictions. reference: the reference's, of the same N or of the anchored ones alone; None.
            anchored: [N] bool, or `Marked`: those that carry D; None means all. A mask is read from its device.
            counts: n_CE and n_D of the whole step. A count of 0 makes its term 0.
        """
        if isinstance(cross_entropy, Tensor):
            divergence = None if reference is None else self.total(student, reference, anchored)
            return self._terms(cross_entropy, divergence, counts)
        of_slice = None if reference is None else self._divergence_per_slice(student, reference, anchored)

        def terms(log_probs: Tensor, part: slice) -> Tensor:
            log_p = log_probs if self.weight else log_probs.detach()  # at weight 0 it is measured, and nothing more
            if of_slice is not None and self.temperature != 1.0:
                log_p = torch.log_softmax(log_p / self.temperature, dim=-1)
            divergence = None if of_slice is None else of_slice(log_p, part) * self.temperature**2
            return torch.stack(self._terms(cross_entropy(log_probs, part), divergence, counts))

        loss, ce_sum, divergence_sum = student.total(terms, self.size)
        return Terms(loss, ce_sum.detach(), divergence_sum.detach())

    def _terms(self, cross_entropy: Tensor, divergence: Tensor | None, counts: Counts) -> Terms:
        """Σ CE / n_CE + weight · Σ D / n_D of two sums in nats, those of a slice or of the micro-batch."""
        loss = divide(cross_entropy, counts.cross_entropy)
        if divergence is None:
            return Terms(loss, cross_entropy.detach(), cross_entropy.detach() * 0.0)
        if self.weight:
            loss = loss + (self._step_weight(counts) * divide(divergence, counts.divergence)).to(loss.dtype)
        return Terms(loss, cross_entropy.detach(), divergence.detach())

    def total(self, student: Rows, reference: Rows, anchored: Tensor | Marked | None = None) -> Tensor:
        """T² · Σ D(student_T ‖ reference_T) over the anchored predictions: a scalar in nats, slice by slice."""
        of_slice = self._divergence_per_slice(student, reference, anchored)
        return student.total(of_slice, self.size, self.temperature)[0] * self.temperature**2

    def _divergence_per_slice(self, student: Rows, reference: Rows, anchored: Tensor | Marked | None) -> PerSlice:
        """Σ D of a slice as a function of the student's log-probabilities there, at the objective's temperature."""
        reference = Held(reference, next(slices(student, self.size)).stop)
        marked = Marked.of(anchored) if isinstance(anchored, Tensor) else anchored
        alone = len(student) != len(reference)  # the reference has the anchored predictions and no others
        if alone and (marked is None or len(reference) != len(marked)):
            others = "" if marked is None else f", or the anchored {len(marked)}"
            raise ValueError(
                f"found {len(reference)} predictions of the reference, expected the student's {len(student)}{others}"
            )

        def divergence(log_probs: Tensor, part: slice) -> Tensor:
            reference_part = marked.within(part) if alone and marked is not None else part
            if alone and marked is not None:
                log_probs = marked.pick(log_probs, part)
            log_p = reference.comparable(log_probs, reference_part)
            with torch.no_grad():
                log_q = reference.log_probs(reference_part, self.temperature).to(log_p.dtype)
            if log_p.shape != log_q.shape:  # one choice would be broadcast, and compared in silence
                raise ValueError(
                    f"found {log_q.shape[-1]} choices of the reference, expected the student's {log_p.shape[-1]}"
                )
            if marked is not None and not alone:
                log_p, log_q = marked.pick(log_p, part), marked.pick(log_q, part)
            return reference.compared_by(self.function)(log_p, log_q).sum()

        return divergence

    @property
    def function(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The divergence as a function."""
        return registry.find("divergences", self.divergence) if isinstance(self.divergence, str) else self.divergence

    def _step_weight(self, counts: Counts) -> Tensor | float:
        if not self.per_label:
            return self.weight
        labelled, anchored = (torch.as_tensor(count, dtype=torch.float64) for count in counts)
        return self.weight * torch.where(labelled > 0, anchored / labelled, 1.0).clamp_max(1.0)


def divide(total: Tensor, count: Tensor | float) -> Tensor:
    """total / count, and 0 (with its graph) where there is nothing to count."""
    count = torch.as_tensor(count, dtype=total.dtype, device=total.device)
    return torch.where(count > 0, total / torch.where(count > 0, count, 1.0), total * 0.0)


def find_divergence(name: str, **parameters: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The divergence `name` with `parameters` bound; raises LookupError or TypeError, which name what is accepted."""
    function = registry.find("divergences", name)
    accepted = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := set(parameters) - set(accepted):
        raise TypeError(f"{name} has no parameter {sorted(unknown)}; it accepts {accepted or 'none'}")
    return partial(function, **parameters)


def confidence_weight(confidence: float, divergence: str) -> float:
    """The weight at which the label wins against a reference as sure as `confidence` of another choice, ½ < c < 1.

    c is the reference's share between its choice j and the label y, q_j / (q_j + q_y). Reverse KL: 2 / logit(c), exact
    for two choices and sufficient for more; forward KL at temperature 1: 1 / (2c − 1). Derivation: at p_y = p_j = ½ the
    gradients of CE and weight · D cancel; beyond that weight the reference overrules the label.
    """
    if divergence == "reverse-kl":
        return 2 / math.log(confidence / (1 - confidence))
    if divergence == "forward-kl":
        return 1 / (2 * confidence - 1)
    raise ValueError(f"found divergence {divergence}, expected reverse-kl or forward-kl: others have no such weight")
