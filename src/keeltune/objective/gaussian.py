"""Predictions of numbers: each a normal distribution of variance 1, in the unit in which the targets are given.

    CE = −log N(y; μ, 1)                = ½ (y − μ)² + ½ log 2π        half a squared error and a constant
    D  = KL( N(μ, 1) ‖ N(μ_R, 1) )      = ½ (μ − μ_R)²                 the same in both directions

Targets are standardised by the training rows, so that the variance is that of the training targets; so is the
reference's. CE and D are sums over the numbers, in nats, and L = Σ CE / n_CE + weight · Σ D / n_D is a least-squares
fit to (y + weight · μ_R) / (1 + weight): the label is nearer than the reference where the weight is below 1.
Sources: Bishop 2006, Pattern Recognition and Machine Learning, 3.1.1; for D its eq. 1.113 of two Gaussians.

Shapes: N numbers, n of them in a slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from keeltune.objective.log_probs import full_precision
from keeltune.objective.predictions import Rows

CONSTANT = 0.5 * math.log(2 * math.pi)
"""½ log 2π nats: the cross-entropy of a number that is met exactly."""

CLOSED = ("reverse_kl", "forward_kl")
"""The divergences that have a closed form here; both are `gaussian_kl`."""


class Gaussian(Rows):
    """N numbers by their means [N]. What `log_probs` gives of them is the mean, [n, 1]: there are no choices."""

    def __init__(self, means: Tensor):
        self.means = means

    def __len__(self) -> int:
        return len(self.means)

    @property
    def choices(self) -> int:
        return 1

    def log_probs(self, part: slice, temperature: float = 1.0) -> Tensor:
        if temperature != 1.0:
            raise ValueError(f"found temperature {temperature}, expected 1: of a Gaussian it would only change weights")
        return full_precision(self.means[part])[:, None]

    def use(self, part: slice, function: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Tensor:
        return function(self.log_probs(part, temperature))

    def comparable(self, log_probs: Tensor, part: slice) -> Tensor:
        return log_probs

    def compared_by(self, divergence: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        name = getattr(getattr(divergence, "func", divergence), "__name__", str(divergence))
        if name not in CLOSED and divergence is not gaussian_kl:
            raise ValueError(f"found {name}, expected reverse-kl or forward-kl: other divergences of Gaussians have no "
                             "closed form")  # fmt: skip
        return gaussian_kl

    def averaged(self, members: Sequence[Rows], weights: Sequence[float]) -> Rows:
        """N(Σ w μ, 1): of all Gaussians of variance 1 the one that is nearest to the members, min Σ w · KL(· ‖ R_i)."""
        means = [weight * member.log_probs(slice(None))[:, 0] for member, weight in zip(members, weights, strict=True)]
        return Gaussian(sum(means[1:], means[0]))


def gaussian_kl(student: Tensor, reference: Tensor) -> Tensor:
    """½ (μ − μ_R)² of means [n, 1] each -> [n] nats."""
    return 0.5 * (student - reference).square().sum(-1)


def gaussian_nll(means: Tensor, targets: Tensor) -> Tensor:
    """−log N(y; μ, 1) of means [n] and targets [n] -> [n] nats."""
    return 0.5 * (targets.to(means.dtype) - means).square() + CONSTANT
