from __future__ import annotations

from torch import Tensor


def total_variation(student: Tensor, reference: Tensor) -> Tensor:
    """½ Σ |p − q|, p the student, q the reference: between 0 and 1, without a unit. At temperature 1 only.

    Args: log-probabilities `student`, `reference` [N, C]. Returns [N].
    Source: Wen et al. 2023, f-divergence minimization for sequence-level distillation, https://arxiv.org/abs/2307.15190.
    """
    return 0.5 * (student.exp() - reference.exp()).abs().sum(-1)
