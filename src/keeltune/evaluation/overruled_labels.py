"""Where a reference overrules labels: the share of them that a weight makes it win against.

For two choices, the reverse KL's optimum gives the label y less than half when weight > 2 / log(q_j / q_y), q_j being
what the reference gives its own choice j (derived in `objective.confidence_weight`; for more choices that is
sufficient for the label to win). Forward KL: when q_j / (q_j + q_y) > ½ + 1 / (2 · weight).

Shapes: N predictions, C choices; log-ratios are nats.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from keeltune.data import dataset
from keeltune.evaluation import divergence
from keeltune.objective.predictions import IGNORED, slices
from keeltune.tasks.common.batches import by_length, to_device
from keeltune.training.cache.identity import shared_of
from keeltune.training.job import Job

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
    has_rule = divergence == "reverse-kl" or (divergence == "forward-kl" and temperature == 1)
    if not has_rule or not len(ratios):
        return None
    bar = _bar(weight, divergence)
    highest = float(torch.quantile(ratios, 1 - TOLERATED, interpolation="higher"))
    weight_kept = None
    if highest > 0:
        weight_kept = 2 / highest if divergence == "reverse-kl" else 1 / math.tanh(highest / 2)
    return Veto(
        len(ratios),
        float((ratios > 0).double().mean()),
        float((ratios > bar).double().mean()),
        None if math.isinf(bar) else 1 / (1 + math.exp(-bar)),
        weight_kept,
    )


def _bar(weight: float, divergence: str) -> float:
    """The log-ratio beyond which the reference wins: logit of the confidence at which the two gradients cancel."""
    if divergence == "reverse-kl":
        return 2 / weight if weight > 0 else math.inf
    return 2 * math.atanh(1 / weight) if weight > 1 else math.inf


LOOKED_AT = 500
"""Training rows on which the veto is counted at most."""


@torch.inference_mode()
def veto_report(job: Job) -> dict[str, Any] | None:
    """The labels that the reference contradicts, and those that it would win against at this run's weight.

    {"predictions", "contradicted", "overruled", "confidence", "weight_kept", "weight"}; None without a reference on
    labelled rows, or for a divergence without a known rule.
    """
    material, task = job.material, job.material.task
    if task.choices == "numbers":  # the label is nearer than the reference at any weight below 1
        return None
    if job.budget[0] is not None or task.settings.class_weights:  # no one weight stands against every label
        return None
    coarse = job.reference_source.cache is not None and job.reference_source.cache["form"]["name"] == "top-k"
    if job.reference is None or coarse or shared_of(material) is not None or job.anchor_head is not None:
        return None
    anchored = [i for i, example in enumerate(job.plan.examples) if example.anchored and example.labelled]
    examples = [job.plan.examples[anchored[i]] for i in dataset.subset(len(anchored), LOOKED_AT)]
    ratios = []
    for indices in by_length(examples, divergence.BATCH):
        batch = to_device(task.collate([examples[i] for i in indices]), job.device)
        if task.sliced_cross_entropy(batch) is None:  # CTC: a frame has no label of its own
            return None
        rows = job.reference.rows(batch)
        for part in slices(rows) if len(rows) else ():
            ratios.append(log_ratios(rows.log_probs(part), batch["targets"][part]).cpu())
    if not ratios:
        return None
    weight = job.objective.weight
    objective = material.recipe.objective
    report = veto(torch.cat(ratios), weight, objective.divergence_name, objective.temperature)
    return None if report is None else {**asdict(report), "weight": weight}
