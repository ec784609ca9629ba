"""The formula: T², counts, masks, slices, per-label weights and the rule of the veto."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from keeltune.objective.formula import Counts, Objective, confidence_weight
from keeltune.objective.predictions import IGNORED, Dense, cross_entropy
from keeltune.utils import registry

NAMES = registry.names("divergences")


def normal(*shape: int, seed: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(objective: Objective, z: Tensor, w: Tensor | None, targets: Tensor, anchored=None, counts=None):
    """(loss, gradient) of one micro-batch that is the whole step."""
    z = z.clone().requires_grad_()
    counts = counts or Counts(float((targets != IGNORED).sum()), float(len(z) if anchored is None else anchored.sum()))
    student = Dense(z)
    reference = None if w is None else Dense(w)
    terms = objective(cross_entropy(student, targets), student, reference, anchored, counts=counts)
    return terms, torch.autograd.grad(terms.loss, z)[0]


Z, W, Y = normal(10, 5, seed=0), normal(10, 5, seed=1), torch.arange(10) % 5


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_the_mean_cross_entropy_plus_weight_times_the_mean_divergence(name):
    terms, gradient = step(Objective(name, weight=0.3), Z, W, Y)
    z = Z.clone().requires_grad_()
    function = registry.find("divergences", name)
    divergence = function(z.log_softmax(-1), W.log_softmax(-1))
    loss = torch.nn.functional.cross_entropy(z, Y) + 0.3 * divergence.mean()
    torch.testing.assert_close(terms.loss.detach(), loss.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(terms.divergence, divergence.sum().detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, z)[0], rtol=0, atol=1e-12)
    assert not terms.divergence.requires_grad


@pytest.mark.parametrize("temperature", [0.5, 2.0, 4.0])
def test_t_squared_is_in_the_value_and_in_the_gradient(temperature):
    z = Z.clone().requires_grad_()
    value = Objective("forward-kl", temperature=temperature).total(Dense(z), Dense(W))
    p, q = (Z / temperature).softmax(-1), (W / temperature).softmax(-1)
    by_hand = temperature**2 * (q * (q / p).log()).sum()
    torch.testing.assert_close(value.detach(), by_hand, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(value, z)
    torch.testing.assert_close(gradient, temperature * (p - q), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["forward-kl", "reverse-kl", "jensen-shannon"])
def test_the_gradient_keeps_its_size_when_the_temperature_rises(name):
    sizes = []
    for temperature in (20.0, 40.0, 80.0):
        z = Z.clone().requires_grad_()
        Objective(name, temperature=temperature).total(Dense(z), Dense(W)).backward()
        sizes.append(z.grad.norm().item())
    assert max(sizes) / min(sizes) < 1.15  # without T² it falls 16-fold


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_reference_equal_to_the_student_adds_nothing(name, temperature):
    """Neither a hidden cross-entropy (3.07 in place of 0) nor a cross-entropy in place of a divergence (3.43)."""
    equal, gradient = step(Objective(name, weight=5.0, temperature=temperature), Z, Z, Y)
    plain, slope = step(Objective(), Z, None, Y)
    assert equal.divergence.item() == pytest.approx(0, abs=1e-12)
    assert equal.loss.item() == pytest.approx(plain.loss.item(), abs=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 3, 4, 7, 9])
def test_slices_of_any_size_change_nothing(name, size):
    anchored = torch.arange(10) % 3 != 1
    whole, gradient = step(Objective(name, weight=0.7), Z, W, Y, anchored)
    cut, slope = step(Objective(name, weight=0.7, size=size), Z, W, Y, anchored)
    torch.testing.assert_close(cut.loss, whole.loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(slope, gradient, rtol=0, atol=1e-12)


def test_the_mask_is_neither_shifted_nor_ignored():
    """One row differs from its reference; the divergence is seen there and nowhere else."""
    reference = Z.clone()
    reference[4] = W[4]
    alone = Objective().total(Dense(Z[4:5]), Dense(W[4:5])).item()
    assert alone > 0.1
    for place in range(10):
        anchored = torch.zeros(10, dtype=torch.bool)
        anchored[place] = True
        found = Objective(size=3).total(Dense(Z), Dense(reference), anchored).item()
        assert found == pytest.approx(alone if place == 4 else 0.0, abs=1e-12)
        assert Objective().total(Dense(Z), Dense(reference), ~anchored).item() == pytest.approx(
            alone - found, abs=1e-12
        )


def test_predictions_outside_the_mask_get_no_gradient_of_the_divergence():
    anchored = torch.arange(10) < 4
    z = Z.clone().requires_grad_()
    Objective(size=3).total(Dense(z), Dense(W), anchored).backward()
    assert torch.equal(z.grad[4:], torch.zeros(6, 5))
    assert z.grad[:4].abs().min() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_step_with_nothing_to_count_is_0_with_a_graph(name):
    nothing = torch.zeros(10, dtype=torch.bool)
    terms, gradient = step(Objective(name), Z, W, torch.full((10,), IGNORED), nothing)
    assert terms.loss.item() == 0
    assert terms.loss.requires_grad
    assert torch.equal(gradient, torch.zeros(10, 5))


def test_a_micro_batch_without_labels_of_a_step_with_labels_carries_its_divergence_alone():
    terms, gradient = step(
        Objective("forward-kl", weight=0.5), Z, W, torch.full((10,), IGNORED), counts=Counts(8.0, 20.0)
    )
    torch.testing.assert_close(gradient, 0.5 / 20 * (Z.softmax(-1) - W.softmax(-1)), rtol=0, atol=1e-12)
    assert terms.cross_entropy.item() == 0


def test_no_rows_at_all():
    empty, none = torch.zeros(0, 5, requires_grad=True), torch.zeros(0, dtype=torch.long)
    terms = Objective()(cross_entropy(Dense(empty), none), Dense(empty), Dense(empty), counts=Counts(4.0, 4.0))
    terms.loss.backward()
    assert terms.loss.item() == 0


def test_micro_batches_add_up_to_the_step():
    anchored = torch.tensor([True] * 3 + [False] * 4 + [True] * 3)
    targets = Y.clone()
    targets[5:8] = IGNORED
    whole, gradient = step(Objective(weight=0.7, per_label=True), Z, W, targets, anchored)
    parts = [step(Objective(weight=0.7, per_label=True), Z[s], W[s], targets[s], anchored[s], Counts(7.0, 6.0))
             for s in (slice(0, 4), slice(4, 5), slice(5, 10))]  # fmt: skip
    torch.testing.assert_close(sum(terms.loss for terms, _ in parts), whole.loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat([g for _, g in parts]), gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("labelled", "anchored", "factor"), [(8, 2, 0.25), (8, 8, 1.0), (2, 8, 1.0), (0, 8, 1.0), (8, 0, 0)]
)
def test_per_label_multiplies_the_weight_by_the_anchored_share(labelled, anchored, factor):
    counts, losses = Counts(float(labelled), float(anchored)), {}
    for per_label in (False, True):
        terms, _ = step(Objective(weight=0.5, per_label=per_label), Z, W, Y, counts=counts)
        losses[per_label] = terms.loss.item()
    ce = torch.nn.functional.cross_entropy(Z, Y, reduction="sum").item() / labelled if labelled else 0.0
    d = Objective().total(Dense(Z), Dense(W)).item() / anchored if anchored else 0.0
    assert losses[False] == pytest.approx(ce + 0.5 * d, rel=1e-12)
    assert losses[True] == pytest.approx(ce + 0.5 * factor * d, rel=1e-12)


def test_counts_may_be_tensors():
    counts = Counts(*torch.tensor([10.0, 10.0]))
    assert torch.equal(step(Objective(per_label=True), Z, W, Y, counts=counts)[1], step(Objective(), Z, W, Y)[1])


def test_weight_zero_is_plain_bit_for_bit():
    plain, gradient = step(Objective(), Z, None, Y)
    zero, slope = step(Objective(weight=0.0), Z, W, Y)
    assert torch.equal(plain.loss, zero.loss)
    assert torch.equal(gradient, slope)
    assert zero.divergence > 0  # it is still measured


def test_the_reference_gets_no_gradient():
    w = W.clone().requires_grad_()
    z = Z.clone().requires_grad_()
    Objective().total(Dense(z), Dense(w)).backward()
    assert w.grad is None


def test_another_number_of_predictions_is_refused():
    with pytest.raises(ValueError, match="found 9 predictions of the reference, expected the student's 10"):
        Objective().total(Dense(Z), Dense(W[:9]))


def test_a_function_is_a_divergence_too():
    twice = Objective(lambda p, q: 2 * registry.find("divergences", "reverse-kl")(p, q)).total(Dense(Z), Dense(W))
    assert twice.item() == pytest.approx(2 * Objective().total(Dense(Z), Dense(W)).item(), rel=1e-12)


# The rule of the veto


def label_at_optimum(reference: list[float], weight: float, divergence: str) -> Tensor:
    """Probabilities of the student where CE(label 0) + weight · D is least, by descent on the objective."""
    z = torch.zeros(1, len(reference), dtype=torch.float64, requires_grad=True)
    w, y = torch.tensor([reference], dtype=torch.float64).log(), torch.tensor([0])
    descent = torch.optim.LBFGS([z], lr=1.0, max_iter=300, tolerance_grad=1e-13, tolerance_change=0,
                                line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> Tensor:
        descent.zero_grad()
        student = Dense(z)
        loss = Objective(divergence, weight)(cross_entropy(student, y), student, Dense(w), counts=Counts(1, 1)).loss
        loss.backward()
        return loss

    descent.step(closure)
    return z.detach().softmax(-1)[0]


@pytest.mark.parametrize("divergence", ["reverse-kl", "forward-kl"])
@pytest.mark.parametrize("confidence", [0.6, 0.9, 0.99, 0.999])
def test_the_label_wins_exactly_up_to_the_confidence(divergence, confidence):
    weight = confidence_weight(confidence, divergence)
    at = label_at_optimum([1 - confidence, confidence], weight, divergence)
    assert at[0].item() == pytest.approx(0.5, abs=1e-6)
    assert label_at_optimum([1 - confidence, confidence], 0.95 * weight, divergence)[0] > 0.501
    assert label_at_optimum([1 - confidence, confidence], 1.05 * weight, divergence)[0] < 0.499


@pytest.mark.parametrize("divergence", ["reverse-kl", "forward-kl"])
def test_with_more_choices_the_weight_is_sufficient(divergence):
    reference = [0.02, 0.18, 0.5, 0.3]
    at = label_at_optimum(reference, confidence_weight(0.5 / 0.52, divergence), divergence)
    assert at[0] >= at[1:].max() - 1e-6


def test_the_weights_of_the_table():
    found = [confidence_weight(c, "reverse-kl") for c in (0.9, 0.95, 0.99, 0.999, 0.9999)]
    assert [round(weight, 2) for weight in found] == [0.91, 0.68, 0.44, 0.29, 0.22]
    assert confidence_weight(0.75, "forward-kl") == pytest.approx(2.0)
    assert math.isclose(confidence_weight(1 / (1 + math.exp(-2)), "reverse-kl"), 1.0)


@pytest.mark.parametrize("divergence", [n for n in NAMES if n not in ("reverse-kl", "forward-kl")])
def test_other_divergences_have_no_such_weight(divergence):
    with pytest.raises(ValueError, match="expected reverse-kl or forward-kl"):
        confidence_weight(0.9, divergence)


@pytest.mark.parametrize("choices", [1, 2])
def test_another_number_of_choices_is_refused(choices):
    with pytest.raises(ValueError, match=f"{choices} choices"):
        Objective().total(Dense(torch.zeros(4, 3)), Dense(torch.zeros(4, choices)))
