from __future__ import annotations

from torch import Tensor

from keeltune.objective.divergences.divergence import kl, mixture


def skewed_kl(student: Tensor, reference: Tensor, *, a: float = 0.1) -> Tensor:
    """KL(q ‖ a q + (1 − a) p), p the student, q the reference: forward KL that cannot exceed log(1/a).

    Args: log-probabilities `student`, `reference` [N, C]; `a` in (0, 1). Returns [N] nats.
    Source: Ko et al. 2024, DistiLLM, https://arxiv.org/abs/2402.03898.
    """
    return kl(reference, mixture(reference, student, a))
