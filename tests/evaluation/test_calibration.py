"""Calibration: closed forms, an independent loop, scipy's minimiser, and numbers that are nobody's choice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss

from keeltune.evaluation.calibration import brier, calibration, expected_error, fitted_temperature
from keeltune.objective.predictions import IGNORED


def drawn(count: int, choices: int, seed: int = 0, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities, and targets drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = (scale * torch.randn(count, choices, generator=generator, dtype=torch.float64)).log_softmax(-1)
    return log_probs, torch.multinomial(log_probs.exp(), 1, generator=generator).squeeze(-1)


def exact() -> tuple[torch.Tensor, torch.Tensor]:
    """Choices that are right exactly as often as they say: 3/4 and 1/4; 1/2, 3/8 and 1/8 of eight."""
    first, second = [0.75, 0.25, 1e-300], [0.125, 0.5, 0.375]
    probabilities = torch.tensor([first] * 4 + [second] * 8, dtype=torch.float64)
    return probabilities.log(), torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 0])


def test_what_is_calibrated_is_found_so():
    log_probs, targets = exact()
    found = calibration(log_probs, targets)
    assert found.temperature == pytest.approx(1.0, abs=1e-9)
    assert found.gain == pytest.approx(0.0, abs=1e-12)
    assert found.predictions == 12
    assert found.ece == pytest.approx(0.0, abs=1e-12)
    log_probs, targets = drawn(200_000, 4)
    assert expected_error(log_probs, targets) < 0.005
    assert fitted_temperature(log_probs, targets) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("factor", [3.0, 0.25, 1.8])
def test_the_temperature_undoes_a_factor(factor):
    """Logits times 3 are calibrated at T = 3, exactly; the error is then that of the logits before."""
    log_probs, targets = exact()
    heated = (factor * log_probs).log_softmax(-1)
    found = calibration(heated, targets)
    assert found.temperature == pytest.approx(factor, rel=1e-9)
    assert found.ece_after == pytest.approx(expected_error(log_probs, targets), abs=1e-9)
    chosen = torch.arange(len(targets))
    assert found.gain == pytest.approx((log_probs - heated)[chosen, targets].mean().item(), rel=1e-9)
    log_probs, targets = drawn(100_000, 5)
    assert fitted_temperature(factor * log_probs, targets) == pytest.approx(factor, rel=0.01)


@pytest.mark.parametrize("choices", [2, 7])
def test_the_temperature_is_scipys(choices):
    log_probs, targets = drawn(500, choices, seed=3)
    log_probs = (1.7 * log_probs + 0.3 * drawn(500, choices, seed=4)[0]).log_softmax(-1)

    def loss(log_t: float) -> float:
        return torch.nn.functional.cross_entropy(log_probs / math.exp(log_t), targets).item()

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    assert fitted_temperature(log_probs, targets) == pytest.approx(math.exp(best.x), rel=1e-6)


def test_no_temperature_is_the_best():
    log_probs, _ = drawn(50, 3)
    for targets in (log_probs.argmax(-1), log_probs.argmin(-1)):  # T → 0; T → ∞
        found = calibration(log_probs, targets)
        assert (found.temperature, found.ece_after, found.gain) == (None, None, 0.0)
    assert fitted_temperature(torch.zeros(4, 2), torch.tensor([0, 1, 0, 0])) is None


@pytest.mark.parametrize(("count", "bins"), [(1000, 15), (1003, 15), (47, 15), (9, 15), (300, 1)])
def test_the_error_is_that_of_a_loop(count, bins):
    log_probs, targets = drawn(count, 4, seed=count)
    log_probs = (2 * log_probs).log_softmax(-1)
    probabilities, right = log_probs.exp().numpy(), (log_probs.argmax(-1) == targets).numpy()
    order = np.argsort(probabilities.max(1))
    expected = 0.0
    for part in np.array_split(order, min(bins, count)):
        expected += len(part) / count * abs(right[part].mean() - probabilities[part].max(1).mean())
    assert expected_error(log_probs, targets, bins) == pytest.approx(expected, abs=1e-12)


def test_the_error_of_one_confidence_is_its_distance_from_the_accuracy():
    """0.8 sure and right 6 times of 10: 0.2, in whatever order the rows come."""
    log_probs = torch.tensor([[0.8, 0.2]] * 20, dtype=torch.float64).log()
    targets = torch.tensor([0] * 12 + [1] * 8)
    for order in (torch.arange(20), torch.randperm(20, generator=torch.Generator().manual_seed(1))):
        assert expected_error(log_probs, targets[order]) == pytest.approx(0.2, abs=1e-12)


def test_the_brier_score():
    log_probs, targets = drawn(200, 2)
    usual = brier_score_loss(targets.numpy(), log_probs[:, 1].exp().numpy())
    assert brier(log_probs, targets) == pytest.approx(2 * usual, rel=1e-12)
    log_probs, targets = drawn(50, 5)
    expected = ((log_probs.exp() - torch.eye(5, dtype=torch.float64)[targets]) ** 2).sum(-1).mean().item()
    assert brier(log_probs, targets) == pytest.approx(expected, rel=1e-12)
    assert brier(torch.tensor([[0.0, -torch.inf]]), torch.tensor([1])) == 2.0


def test_what_has_no_label_is_not_counted():
    log_probs, targets = drawn(60, 3)
    unknown = drawn(40, 3, seed=9)[0]
    both = torch.cat([log_probs, unknown])
    labels = torch.cat([targets, torch.full((40,), IGNORED)])
    assert calibration(both, labels) == calibration(log_probs, targets)
    assert calibration(unknown, torch.full((40,), IGNORED)) is None


def test_an_impossible_choice_is_no_nan():
    log_probs, targets = exact()
    shut = torch.where(log_probs < -600, -torch.inf, log_probs)
    assert calibration((3 * shut).log_softmax(-1), targets).temperature == pytest.approx(3.0, rel=1e-9)
    found = calibration(torch.tensor([[0.0, -torch.inf]] * 3), torch.tensor([0, 0, 1]))
    assert found.temperature is None
    assert found.ece == pytest.approx(1 / 3)


def test_half_precision_is_read_in_double():
    log_probs, targets = drawn(300, 3)
    half = log_probs.bfloat16()
    assert calibration(half, targets) == calibration(half.double(), targets)
