from __future__ import annotations

from torch import Tensor

from keeltune.objective.matching.matching import Term


class HiddenStates(Term):
    """Mean squared difference of hidden states: M_b = mean over layers, positions t and widths h of (s_bth − r_bth)².

    The student's layer i of k is compared with the teacher's round(i · K / k) of K, the embeddings with the embeddings.
    Where the widths differ, a linear map W [H_r, H_s] a layer, s = W h_student, is learned with the student and left
    out of what is saved.

    Source: FitNets, https://arxiv.org/abs/1412.6550; TinyBERT (eq. 8), https://arxiv.org/abs/1909.10351.
    """

    output = "hidden_states"
    projected = True

    @staticmethod
    def distance(student: Tensor, reference: Tensor, real: Tensor) -> Tensor:
        """[B, T, H], [B, T, H], [B, T] bool -> [B]: the mean over each example's real positions; it has no unit."""
        difference = (student - reference).square().mean(-1)
        return (difference * real).sum(-1) / real.sum(-1).clamp_min(1)
