from __future__ import annotations

from torch import Tensor

from keeltune.objective.divergences.divergence import kl


def reverse_kl(student: Tensor, reference: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ p · log(p / q), p the student, q the reference: keeltune's formula.

    Mode-seeking: the student is punished where it puts mass that the reference does not. The gradient with respect to
    the student's logits is p · (log(p / q) − KL).

    Args: log-probabilities `student`, `reference` [N, C]. Returns [N] nats, infinite where p > 0 and q = 0.
    Source: Gu et al. 2023, MiniLLM, https://arxiv.org/abs/2306.08543.
    """
    return kl(student, reference)
