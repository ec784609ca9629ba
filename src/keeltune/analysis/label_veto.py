"""Where a reference overrules labels: the share of them that a weight makes it win against.

For two choices, the reverse KL's optimum gives the label y less than half when weight > 2 / log(q_j / q_y), q_j being
what the reference gives its own choice j (derived in `objective.confidence_weight`; for more choices that is
sufficient for the label to win). Forward KL: when q_j / (q_j + q_y) > ½ + 1 / (2 · weight).

Shapes: N predictions, C choices; log-ratios are nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from keeltune.rows import IGNORED

TOLERATED = 0.01
"""The share of labels that the offered weight may overrule: a share of labels as large is often wrong itself."""

WARNED = 0.05
"""The share of overruled labels from which there is a warning."""


@dataclass(frozen=True)
class Veto:
    """`contradicted`: the share of labels that are not the reference's choice; `overruled`: those that it wins.

    `confidence` is its share between its choice and the label beyond which it wins (None: never); `weight_kept` the
    weight at which at most `TOLERATED` of the labels are overruled (None: any).
    """

    predictions: int
    contradicted: float
    overruled: float
    confidence: float | None
    weight_kept: float | None


def log_ratios(log_probs: Tensor, targets: Tensor) -> Tensor:
    """log(q_j / q_y) of each labelled prediction, j its likeliest choice besides the label y: [N, C], [N] -> [n]."""
    labelled = targets != IGNORED
    log_probs, targets = log_probs[labelled].double(), targets[labelled][:, None]
    rival = log_probs.scatter(-1, targets, -torch.inf).amax(-1)
    return rival - log_probs.gather(-1, targets).squeeze(-1)


def veto(ratios: Tensor, weight: float, divergence: str, temperature: float = 1.0) -> Veto | None:
    """What a weight of this divergence does to the labels; None where no rule is known, or nothing is labelled.

    Reverse KL's rule is the same at any temperature, forward KL's is known at 1.
    """
    known = divergence == "reverse-kl" or (divergence == "forward-kl" and temperature == 1)
    if not known or not len(ratios):
        return None
    bar = _bar(weight, divergence)
    highest = float(torch.quantile(ratios, 1 - TOLERATED, interpolation="higher"))
    kept = None
    if highest > 0:
        kept = 2 / highest if divergence == "reverse-kl" else 1 / math.tanh(highest / 2)
    return Veto(
        len(ratios),
        float((ratios > 0).double().mean()),
        float((ratios > bar).double().mean()),
        None if math.isinf(bar) else 1 / (1 + math.exp(-bar)),
        kept,
    )


def _bar(weight: float, divergence: str) -> float:
    """The log-ratio beyond which the reference wins: logit of the confidence at which the two gradients cancel."""
    if divergence == "reverse-kl":
        return 2 / weight if weight > 0 else math.inf
    return 2 * math.atanh(1 / weight) if weight > 1 else math.inf
