"""The formula in `keras.ops`; `keeltune.objective.formula` is the same page in torch.

    L(θ) = Σ CE / n_CE  +  weight · Σ D( P(·|x;θ) ‖ R(·|x) ) / n_D          CE = −log P(y|x;θ)

The method is a value: the caller hands the objective a reference, or none. Sums run over the predictions of one
micro-batch; n_CE and n_D count the whole optimizer step. No sum is divided twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from keras import ops

from keeltune.keras import divergences
from keeltune.keras.predictions import Coarse, coarsened, log_softmax

Tensor = Any


class Counts(NamedTuple):
    """n_CE, the labelled predictions of an optimizer step (their weights' sum), and n_D, its anchored ones."""

    cross_entropy: Tensor | float
    divergence: Tensor | float


class Terms(NamedTuple):
    """What one micro-batch adds to a step: the loss to differentiate, and its two undivided sums in nats."""

    loss: Tensor
    cross_entropy: Tensor
    divergence: Tensor


@dataclass(frozen=True)
class Objective:
    """L = Σ CE / n_CE + weight · Σ D / n_D, as `kt.Objective`.

    `divergence` is a name of a recipe, or a function of log-probabilities [..., C], [..., C] -> [...] nats.
    `temperature` T divides the logits of both sides; T² multiplies value and gradient. `per_label`: the weight is
    multiplied by min(1, n_D / n_CE) of the step, which keeps a labelled row's own ratio of the two terms.

        objective = kk.Objective("reverse-kl", weight=0.29)
        terms = objective(kk.cross_entropy(logits, targets), logits, teacher_logits, counts=kk.Counts(n, n))
    """

    divergence: str | Callable[[Tensor, Tensor], Tensor] = "reverse-kl"
    weight: float = 1.0
    temperature: float = 1.0
    per_label: bool = False

    def __call__(
        self,
        cross_entropy: Tensor,
        student: Tensor,
        reference: Tensor | Coarse | None = None,
        anchored: Tensor | None = None,
        *,
        counts: Counts,
    ) -> Terms:
        """One micro-batch's terms.

        Args:
            cross_entropy: Σ CE of the micro-batch, a sum in nats. student: its logits [..., C].
            reference: logits or log-probabilities [..., C], or `Coarse`; None. anchored: [...] bool, the predictions
                that carry D; None means all.
            counts: n_CE and n_D of the whole step. A count of 0 makes its term 0.
        """
        loss = divide(cross_entropy, counts.cross_entropy)
        if reference is None:
            return Terms(loss, cross_entropy, ops.zeros_like(cross_entropy))
        divergence = self.total(student, reference, anchored)
        if self.weight:
            weighted = self._step_weight(counts, loss.dtype) * divide(divergence, counts.divergence)
            loss = loss + ops.cast(weighted, loss.dtype)
        return Terms(loss, cross_entropy, divergence)

    def total(self, student: Tensor, reference: Tensor | Coarse, anchored: Tensor | None = None) -> Tensor:
        """T² · Σ D(student_T ‖ reference_T) over the anchored predictions: a scalar in nats."""
        log_p = log_softmax(student, self.temperature)
        if isinstance(reference, Coarse):
            if reference.temperature != self.temperature:
                raise ValueError(f"found a coarse reference of temperature {reference.temperature}, expected the "
                                 f"objective's {self.temperature}: its tail cannot be brought to another")  # fmt: skip
            log_p, log_q = coarsened(log_p, reference.ids), ops.convert_to_tensor(reference.log_probs)
        else:
            log_q = log_softmax(reference, self.temperature)
        if log_p.shape[-1] != log_q.shape[-1]:  # one choice would be broadcast, and compared in silence
            raise ValueError(
                f"found {log_q.shape[-1]} choices of the reference, expected the student's {log_p.shape[-1]}"
            )
        log_q = ops.cast(ops.stop_gradient(log_q), log_p.dtype)
        if anchored is not None:  # what is not compared is made equal, so that nothing of it reaches the gradient
            carries = ops.cast(anchored, "bool")[..., None]
            log_p, log_q = (ops.where(carries, x, ops.zeros_like(x)) for x in (log_p, log_q))
        return ops.sum(self.function(log_p, log_q)) * self.temperature**2

    @property
    def function(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The divergence as a function."""
        return divergences.find(self.divergence) if isinstance(self.divergence, str) else self.divergence

    def _step_weight(self, counts: Counts, dtype: Any) -> Tensor | float:
        if not self.per_label:
            return self.weight
        labelled, anchored = (ops.cast(ops.convert_to_tensor(count), dtype) for count in counts)
        fewer = ops.cast(anchored < labelled, dtype)  # by operators alone, which keep float64 on every backend
        return self.weight * (1 - fewer + fewer * anchored / (labelled + 1 - fewer))


def divide(total: Tensor, count: Tensor | float) -> Tensor:
    """total / count, and 0 (with its gradient) where there is nothing to count."""
    count = ops.cast(ops.convert_to_tensor(count), total.dtype)
    some = count > 0
    return ops.where(some, total / ops.where(some, count, ops.ones_like(count)), total * 0.0)
