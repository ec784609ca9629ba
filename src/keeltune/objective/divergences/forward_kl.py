from __future__ import annotations

from torch import Tensor

from keeltune.objective.divergences.divergence import kl


def forward_kl(student: Tensor, reference: Tensor) -> Tensor:
    """KL(q ‖ p) = Σ q · log(q / p), p the student, q the reference: Hinton's distillation, Yu's adaptation.

    Mass-covering: the student is punished where it misses mass that the reference has. The reference's entropy is
    part of it, so that equal distributions give 0. The gradient with respect to the student's logits is p − q.

    Args: log-probabilities `student`, `reference` [N, C]. Returns [N] nats.
    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531.
    """
    return kl(reference, student)
