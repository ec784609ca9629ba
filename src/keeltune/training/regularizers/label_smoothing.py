from __future__ import annotations

import torch
from torch import Tensor


def label_smoothing(log_probs: Tensor, targets: Tensor, strength: float) -> Tensor:
    """What smoothing adds to a labelled prediction's cross-entropy: [n, C], [n] -> [n] nats.

        (1 − ε) · CE + ε · mean_c −log p_c   =   CE + ε · (mean_c −log p_c − CE)

    The mean runs over the choices that a prediction has: those of probability 0 (the padded places of a span) are none.
    The second form leaves CE alone, so that what is reported is not smoothed. `targets` are labels, none IGNORED.

    Source: Szegedy et al. 2015, https://arxiv.org/abs/1512.00567. A teacher should not be trained with it, since it
    erases how alike the wrong choices are: Müller et al. 2019, https://arxiv.org/abs/1906.02629.
    """
    impossible = log_probs == -torch.inf
    every = log_probs.masked_fill(impossible, 0.0).sum(-1) / (~impossible).sum(-1)
    picked = log_probs.gather(-1, targets[:, None]).squeeze(-1)
    return strength * (picked - every)
