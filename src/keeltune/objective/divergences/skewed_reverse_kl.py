from __future__ import annotations

from torch import Tensor

from keeltune.objective.divergences.divergence import kl, mixture


def skewed_reverse_kl(student: Tensor, reference: Tensor, *, a: float = 0.1) -> Tensor:
    """KL(p ‖ (1 − a) q + a p), p the student, q the reference: reverse KL that cannot exceed log(1/a).

    Args: log-probabilities `student`, `reference` [N, C]; `a` in (0, 1). Returns [N] nats.
    Source: Ko et al. 2024, DistiLLM, https://arxiv.org/abs/2402.03898.
    """
    return kl(student, mixture(student, reference, a))
