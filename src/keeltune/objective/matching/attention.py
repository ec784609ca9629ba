from __future__ import annotations

import torch
from torch import Tensor

from keeltune.objective.matching.matching import Term


class Attention(Term):
    """KL of the teacher's attention and the student's: M_b = mean over layers, heads and real positions t of
    Σ_u r_btu · (log r_btu − log s_btu), where a head at position t attends to position u with r and s.

    The student's layer i of k is compared with the teacher's round(i · K / k) of K; where the numbers of heads differ,
    the means over the heads are. The student's dropout of attention is switched off, since what it leaves is no
    distribution.

    Source: MiniLM (https://arxiv.org/abs/2002.10957, eq. 6), on every layer.
    """

    output = "attentions"
    projected = False

    @staticmethod
    def distance(student: Tensor, reference: Tensor, real: Tensor) -> Tensor:
        """[B, heads, T, U], [B, heads', T, U], [B, T] bool -> [B] nats a position."""
        if student.shape[1] != reference.shape[1]:
            student, reference = student.mean(1, keepdim=True), reference.mean(1, keepdim=True)
        smallest = torch.finfo(student.dtype).tiny
        ratio = reference.clamp_min(smallest).log() - student.clamp_min(smallest).log()
        divergence = (reference * ratio).sum(-1).mean(1)
        return (divergence * real).sum(-1) / real.sum(-1).clamp_min(1)
