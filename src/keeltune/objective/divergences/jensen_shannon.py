from __future__ import annotations

from torch import Tensor

from keeltune.objective.divergences.divergence import kl, mixture


def jensen_shannon(student: Tensor, reference: Tensor, *, beta: float = 0.5) -> Tensor:
    """[β KL(q ‖ m) + (1 − β) KL(p ‖ m)] / (β (1 − β)), m = β q + (1 − β) p, p the student, q the reference.

    The division makes it continuous: β → 0 is forward KL(q ‖ p), β → 1 reverse KL(p ‖ q). Without it, the gradient
    falls to nothing near both ends and jumps at them. β = ½ is four times the textbook's Jensen–Shannon divergence.

    Args: log-probabilities `student`, `reference` [N, C]; `beta` in [0, 1]. Returns [N] nats, at most
    [β log(1/β) + (1 − β) log(1/(1 − β))] / (β (1 − β)) for 0 < β < 1.
    Source: Agarwal et al. 2023, GKD, https://arxiv.org/abs/2306.13649 (there without the division).
    """
    if beta == 0:
        return kl(reference, student)
    if beta == 1:
        return kl(student, reference)
    middle = mixture(reference, student, beta)
    return kl(reference, middle) / (1 - beta) + kl(student, middle) / beta
