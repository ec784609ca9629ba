"""Whether a model is as often right as it says: calibration error, Brier score and the one temperature that mends most.

Shapes: N predictions, C choices. All arguments are log-probabilities [N, C] in nats and targets [N], IGNORED where
there is no label; all values are computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from keeltune.objective.predictions import Dense, cross_entropy
from keeltune.tasks.metrics.expected_calibration_error import (
    error_of,
    expected_error,
    labelled,
    predictions_of,
)

HOTTEST = 100.0
"""Temperatures are looked for from 1 / HOTTEST to HOTTEST."""

HALVINGS = 45
"""Of the range of log T, 9.2 wide: T is found to 3e-13 of itself."""


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy lie apart, before and after one fitted temperature.

    `temperature` and `ece_after` are None where no temperature is the best (see `fitted_temperature`). `gain` is what
    the fit takes from the negative log-likelihood, nats a prediction, 0 at least. The fit has seen the predictions
    that it is measured on; with one parameter that flatters little.
    """

    ece: float
    brier: float
    temperature: float | None
    ece_after: float | None
    gain: float
    predictions: int


def calibration(log_probs: Tensor, targets: Tensor) -> Calibration | None:
    """All of it; None where nothing is labelled."""
    log_probs, targets = labelled(log_probs, targets)
    if not len(targets):
        return None
    temperature = fitted_temperature(log_probs, targets)
    after, gain = None, 0.0
    if temperature is not None:
        tempered = Dense(log_probs).log_probs(slice(None), temperature)
        after = expected_error(tempered, targets)
        gain = (cross_entropy(Dense(log_probs), targets) - cross_entropy(Dense(tempered), targets)).item()
    return Calibration(
        expected_error(log_probs, targets),
        brier(log_probs, targets),
        temperature,
        after,
        max(0.0, gain / len(targets)),
        len(targets),
    )


PLOTTED = 10
"""Bins of a reliability plot at most, each of 20 predictions or more."""

CHANCE_DRAWS = 40
"""Draws of labels from a model's own probabilities, of which the calibration error by chance is the mean."""


def of_lines(
    lines: Sequence[Mapping[str, Any]], temperature: float | None = None, *, fit: bool = True
) -> dict[str, Any] | None:
    """The calibration of a prediction file's rows; None where they have no probabilities.

    {"predictions", "ece", "ece_by_chance", "brier", "temperature", "ece_after", "bins": [[mean confidence, accuracy,
    predictions]]}. `fit`: the temperature is fitted on these rows; else it is the given one, so that `ece_after` is of
    rows that it has not seen (None without one). `ece_by_chance` is what a perfectly calibrated model with these
    probabilities would show on so many rows. Rows with several labels count as a yes/no prediction for each label.
    """
    known = [line for line in lines if "probabilities" in line]
    if not known:
        return None
    log_probs, targets = predictions_of([line["probabilities"] for line in known], [line["gold"] for line in known])
    measured = calibration(log_probs, targets)
    assert measured is not None
    after = measured.ece_after if fit else None
    temperature = measured.temperature if fit else temperature
    if not fit and temperature is not None:
        after = expected_error(Dense(log_probs).log_probs(slice(None), temperature), targets)
    return {
        "predictions": measured.predictions,
        "ece": measured.ece,
        "ece_by_chance": error_by_chance(log_probs),
        "brier": measured.brier,
        "temperature": temperature,
        "ece_after": after,
        "bins": reliability(log_probs, targets),
    }


def confidence_and_accuracy(measured: Mapping[str, Any]) -> tuple[float, float]:
    """The mean probability of the chosen answers and the share of right ones, of what `of_lines` says."""
    rows = sum(count for _, _, count in measured["bins"])
    confidence, right = (sum(of_bin[i] * of_bin[2] for of_bin in measured["bins"]) / rows for i in (0, 1))
    return confidence, right


def side(measured: Mapping[str, Any]) -> Literal["over", "under", "both"]:
    """On which side the probabilities of `of_lines` are wrong.

    E = Σ_b n_b/N · |c_b − a_b| ≥ |c − a|, c mean confidence, a accuracy: "over" or "under" where |c − a| is at least
    half of E, so that three quarters of the error at least lie on one side; else "both".
    """
    confidence, right = confidence_and_accuracy(measured)
    if abs(confidence - right) < measured["ece"] / 2:
        return "both"
    return "over" if confidence > right else "under"


def error_by_chance(log_probs: Tensor) -> float:
    """The mean calibration error where the labels are drawn from the probabilities themselves."""
    generator = torch.Generator().manual_seed(0)
    log_probs = log_probs.double()
    top, probabilities = log_probs.max(-1), log_probs.exp()
    error = error_of(top.values.exp())
    labels = (torch.multinomial(probabilities, 1, generator=generator)[:, 0] for _ in range(CHANCE_DRAWS))
    return sum(error(top.indices == sample) for sample in labels) / CHANCE_DRAWS


def reliability(log_probs: Tensor, targets: Tensor) -> list[list[float]]:
    """[mean confidence, accuracy, predictions] of bins of equally many predictions, in the order of confidence."""
    log_probs, targets = labelled(log_probs, targets)
    top = log_probs.max(-1)
    order = top.values.argsort(stable=True)
    confidence, right = top.values.exp()[order], (top.indices == targets).double()[order]
    bins = max(1, min(PLOTTED, len(targets) // 20))
    parts = zip(confidence.tensor_split(bins), right.tensor_split(bins), strict=True)
    return [[c.mean().item(), r.mean().item(), float(len(c))] for c, r in parts]


def tempered(probabilities: Mapping[str, float], temperature: float, *, several: bool = False) -> dict[str, float]:
    """One row's probabilities at a temperature, softmax(log p / T); `several`: of a yes/no choice for each name."""
    p = torch.tensor(list(probabilities.values()), dtype=torch.float64)
    logs = (torch.stack([1 - p, p], -1) if several else p).clamp_min(1e-38).log()
    changed = (logs / temperature).softmax(-1)
    return dict(zip(probabilities, (changed[:, 1] if several else changed).tolist(), strict=True))


def brier(log_probs: Tensor, targets: Tensor) -> float:
    """Mean of Σ_c (p_c − [c = y])², from 0 to 2; for two choices twice the square that is usual there.

    Source: Brier 1950, https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2.
    """
    log_probs, targets = labelled(log_probs, targets)
    probabilities = log_probs.exp()
    right = torch.zeros_like(probabilities).scatter(-1, targets[:, None], 1.0)
    return ((probabilities - right) ** 2).sum().item() / max(1, len(targets))


def fitted_temperature(log_probs: Tensor, targets: Tensor) -> float | None:
    """T that minimises Σ −log softmax(log_probs / T)[y]; None where none from 1 / HOTTEST to HOTTEST does.

    In b = 1 / T the sum is convex and its slope Σ (E_p[z] − z_y), p = softmax(b z), never falls, so that its zero is
    found by halving. There is none where every answer is right (T → 0), or where the choices say nothing (T → ∞).
    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599.
    """
    z, targets = labelled(log_probs, targets)
    chosen = z.gather(-1, targets[:, None]).sum()

    def slope(log_t: float) -> float:
        p = Dense(z).log_probs(slice(None), math.exp(log_t)).exp()
        return (torch.where(p > 0, p * z, 0.0).sum() - chosen).item()

    cold, hot = -math.log(HOTTEST), math.log(HOTTEST)
    if not slope(cold) > 0 > slope(hot):
        return None
    for _ in range(HALVINGS):
        middle = (cold + hot) / 2
        cold, hot = (middle, hot) if slope(middle) > 0 else (cold, middle)
    return math.exp((cold + hot) / 2)
