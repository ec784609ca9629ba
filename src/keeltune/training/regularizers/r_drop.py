from __future__ import annotations

from torch import Tensor

from keeltune.objective.divergences.divergence import kl


def r_drop(log_p: Tensor, log_q: Tensor, strength: float) -> Tensor:
    """α · ½ · [KL(p ‖ q) + KL(q ‖ p)] of each prediction: [n, C] twice -> [n] nats.

    p and q are the student's own distributions in two forward passes, which differ by what dropout left out; gradients
    flow into both. The loss of a step is the mean of the two passes' losses, CE and D alike, and this term's sum over
    the labelled predictions / n_CE.

    Source: Liang et al. 2021, https://arxiv.org/abs/2106.14448 (eq. 2 and 3; theirs is the sum of the two passes, so
    that their α is twice ours).
    """
    return 0.5 * strength * (kl(log_p, log_q) + kl(log_q, log_p))
