"""Each divergence against its closed form, written down a second time in NumPy, and the properties they share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from keeltune.objective import divergences
from keeltune.objective.formula import Objective, find_divergence
from keeltune.objective.predictions import Dense
from keeltune.utils import registry

NAMES = registry.names("divergences")
Array = np.ndarray


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(a: Array, b: Array) -> Array:
    return (a * np.log(a / b)).sum(-1)


def to_logits(p: Array, slope: Array) -> Array:
    """dD/dp as dD/dz, through the Jacobian of the softmax."""
    return p * (slope - (p * slope).sum(-1, keepdims=True))


def forward_kl(p: Array, q: Array) -> tuple[Array, Array]:
    return kl(q, p), p - q


def reverse_kl(p: Array, q: Array) -> tuple[Array, Array]:
    return kl(p, q), p * (np.log(p / q) - kl(p, q)[:, None])


def skewed_kl(p: Array, q: Array, a: float = 0.1) -> tuple[Array, Array]:
    m = a * q + (1 - a) * p
    return kl(q, m), to_logits(p, -(1 - a) * q / m)


def skewed_reverse_kl(p: Array, q: Array, a: float = 0.1) -> tuple[Array, Array]:
    m = (1 - a) * q + a * p
    return kl(p, m), to_logits(p, np.log(p / m) + 1 - a * p / m)


def jensen_shannon(p: Array, q: Array, beta: float = 0.5) -> tuple[Array, Array]:
    m = beta * q + (1 - beta) * p
    value = (beta * kl(q, m) + (1 - beta) * kl(p, m)) / (beta * (1 - beta))
    # Σ β q log(q/m) + (1 − β) p log(p/m): the terms through m cancel, as m is the minimiser
    return value, to_logits(p, np.log(p / m) / beta)


def total_variation(p: Array, q: Array) -> tuple[Array, Array]:
    return np.abs(p - q).sum(-1) / 2, to_logits(p, np.sign(p - q) / 2)


def logit_mse(p: Array, q: Array) -> tuple[Array, Array]:
    d = np.log(p) - np.log(q)
    d = d - d.mean(-1, keepdims=True)
    return (d**2).mean(-1) / 2, d / d.shape[-1]


CLOSED_FORMS = {
    "forward-kl": forward_kl,
    "reverse-kl": reverse_kl,
    "skewed-kl": skewed_kl,
    "skewed-reverse-kl": skewed_reverse_kl,
    "jensen-shannon": jensen_shannon,
    "total-variation": total_variation,
    "logit-mse": logit_mse,
}
CASES = [(name, {}) for name in CLOSED_FORMS] + [
    ("skewed-kl", {"a": 0.37}),
    ("skewed-reverse-kl", {"a": 0.37}),
    *(("jensen-shannon", {"beta": beta}) for beta in (0.01, 0.2, 0.9)),
]


def logits(rows: int, choices: int, seed: int, scale: float = 2.0) -> Array:
    return np.random.default_rng(seed).normal(0, scale, (rows, choices))


def apply(function: Callable[..., Tensor], z: Array, w: Array) -> tuple[Array, Array]:
    """The divergence of softmax(z) from softmax(w), and its gradient with respect to z."""
    student = torch.tensor(z, requires_grad=True)
    value = function(student.log_softmax(-1), torch.tensor(w).log_softmax(-1))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    return value.detach().numpy(), gradient.numpy()


@pytest.mark.parametrize("name", NAMES)
def test_every_divergence_has_a_closed_form_here(name):
    assert name in CLOSED_FORMS


@pytest.mark.parametrize(("name", "parameters"), CASES)
@pytest.mark.parametrize("choices", [2, 3, 17])
def test_value_and_gradient_are_the_closed_form(name, parameters, choices):
    z, w = logits(6, choices, 0), logits(6, choices, 1)
    value, gradient = apply(find_divergence(name, **parameters), z, w)
    expected, slope = CLOSED_FORMS[name](softmax(z), softmax(w), **parameters)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_gradient_is_the_finite_difference_of_the_value(name, parameters):
    z = torch.tensor(logits(2, 5, 2), requires_grad=True)
    reference = torch.tensor(logits(2, 5, 3)).log_softmax(-1)
    function = find_divergence(name, **parameters)
    assert torch.autograd.gradcheck(lambda z: function(z.log_softmax(-1), reference), (z,))


def test_three_numbers_by_hand():
    """p = (½, ¼, ¼), q = (⅛, ⅛, ¾): the two directions are told apart in the second digit."""
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).double(), torch.tensor([[0.125, 0.125, 0.75]]).double()
    reverse = 0.5 * math.log(4) + 0.25 * math.log(2) + 0.25 * math.log(1 / 3)
    forward = 0.125 * math.log(1 / 4) + 0.125 * math.log(1 / 2) + 0.75 * math.log(3)
    assert divergences.reverse_kl(p.log(), q.log()).item() == pytest.approx(reverse, abs=1e-14)
    assert divergences.forward_kl(p.log(), q.log()).item() == pytest.approx(forward, abs=1e-14)
    assert reverse == pytest.approx(0.591781, abs=1e-6)
    assert forward == pytest.approx(0.564029, abs=1e-6)
    assert divergences.total_variation(p.log(), q.log()).item() == pytest.approx(0.5, abs=1e-14)


def test_torch_names_its_arguments_the_other_way_round():
    log_p, log_q = (torch.tensor(logits(4, 6, seed)).log_softmax(-1) for seed in (4, 5))
    theirs = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(divergences.reverse_kl(log_p, log_q), theirs, rtol=0, atol=1e-12)
    assert (divergences.forward_kl(log_p, log_q) - theirs).abs().min() > 1e-3


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9])
def test_forward_kl_is_a_mixed_target_and_reverse_kl_is_not(rho):
    """Yu et al. 2013: (1 − ρ) CE + ρ KL(q ‖ p) has the gradient of CE against (1 − ρ) · onehot + ρ · q."""
    w, y = torch.tensor(logits(5, 7, 6)).log_softmax(-1), torch.arange(5)

    def gradient(loss: Callable[[Tensor], Tensor]) -> Tensor:
        z = torch.tensor(logits(5, 7, 7), requires_grad=True)
        return torch.autograd.grad(loss(z.log_softmax(-1)), z)[0]

    target = (1 - rho) * torch.nn.functional.one_hot(y, 7).double() + rho * w.exp()
    mixed = gradient(lambda log_p: -(target * log_p).sum())

    def ours(divergence: Callable[..., Tensor]) -> Tensor:
        return gradient(lambda log_p: -(1 - rho) * log_p[torch.arange(5), y].sum() + rho * divergence(log_p, w).sum())

    torch.testing.assert_close(ours(divergences.forward_kl), mixed, rtol=0, atol=1e-15)
    assert (ours(divergences.reverse_kl) - mixed).abs().max() > 1e-2


@pytest.mark.parametrize(("beta", "end"), [(0, "forward-kl"), (1, "reverse-kl")])
def test_jensen_shannon_is_continuous_in_value_and_gradient_at_both_ends(beta, end):
    """Without the division by β (1 − β) the gradient jumps 157-fold between β = 0 and 0.01."""
    z, w = logits(5, 6, 8), logits(5, 6, 9)
    value, slope = apply(find_divergence(end), z, w)
    at = apply(find_divergence("jensen-shannon", beta=beta), z, w)
    assert np.array_equal(at[0], value)
    assert np.array_equal(at[1], slope)
    errors = []
    for step in (1e-2, 1e-3, 1e-4, 1e-5):
        close = apply(find_divergence("jensen-shannon", beta=abs(beta - step)), z, w)
        errors.append(max(np.abs(close[0] - value).max(), np.abs(close[1] - slope).max()))
    assert errors[0] < 0.5 * np.abs(slope).max() + 0.5 * value.max()
    assert all(b < a / 3 for a, b in itertools.pairwise(errors))
    assert errors[-1] < 1e-3


def test_jensen_shannon_at_one_half_is_four_times_the_textbook():
    p, q = softmax(logits(5, 6, 8)), softmax(logits(5, 6, 9))
    textbook = (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2
    ours = divergences.jensen_shannon(torch.tensor(p).log(), torch.tensor(q).log()).numpy()
    np.testing.assert_allclose(ours, 4 * textbook, atol=1e-12)


@pytest.mark.parametrize("name", ["skewed-kl", "skewed-reverse-kl"])
@pytest.mark.parametrize("a", [0.01, 0.1, 0.5])
def test_skewed_divergences_cannot_exceed_log_1_over_a(name, a):
    far = torch.tensor([[0.0, -500.0, -500.0]]), torch.tensor([[-500.0, 0.0, -500.0]])
    apart = torch.tensor([[0.0, -torch.inf]]), torch.tensor([[-torch.inf, 0.0]])
    for student, reference in (far, apart):
        assert find_divergence(name, a=a)(student, reference).item() == pytest.approx(math.log(1 / a), rel=1e-6)


def test_total_variation_is_at_most_one():
    student, reference = torch.tensor([[0.0, -500.0]]), torch.tensor([[-500.0, 0.0]])
    assert divergences.total_variation(student, reference).item() == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["forward-kl", "reverse-kl"])
def test_logit_mse_is_the_limit_of_hot_kl(name):
    z, w = torch.tensor(logits(4, 6, 10)), torch.tensor(logits(4, 6, 11))
    limit = Objective("logit-mse").total(Dense(z), Dense(w)).item()
    errors = [abs(Objective(name, temperature=t).total(Dense(z), Dense(w)).item() - limit) for t in (10, 100, 1000)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-2 * limit


@pytest.mark.parametrize(("name", "parameters"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_equality_gives_zero_with_no_gradient(name, parameters, dtype):
    z = torch.tensor(logits(6, 9, 12), dtype=dtype, requires_grad=True)
    value = find_divergence(name, **parameters)(z.log_softmax(-1), z.detach().log_softmax(-1))
    assert value.dtype == dtype
    smallest = min([1.0, *(min(p, 1 - p) for p in parameters.values())])
    tolerance = (1e-6 if dtype == torch.float32 else 1e-14) / smallest
    assert value.min() >= 0
    assert value.max() <= tolerance
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert gradient.abs().max() <= tolerance


@pytest.mark.parametrize(
    ("name", "parameters"), [*CASES, ("jensen-shannon", {"beta": 0}), ("jensen-shannon", {"beta": 1})]
)
def test_a_choice_impossible_for_both_adds_nothing(name, parameters):
    z, w = logits(4, 5, 13), logits(4, 5, 14)
    padded = [np.insert(x, [0, 2, 5], -np.inf, axis=-1) for x in (z, w)]
    function = find_divergence(name, **parameters)
    value, gradient = apply(function, *padded)
    expected, slope = apply(function, z, w)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.delete(gradient, [0, 3, 7], axis=-1), slope, rtol=0, atol=1e-14)
    assert np.array_equal(gradient[:, [0, 3, 7]], np.zeros((4, 3)))


def test_a_choice_impossible_for_one_is_as_it_is():
    student, reference = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).log()
    assert divergences.reverse_kl(student, reference).item() == math.inf
    assert divergences.forward_kl(student, reference).item() == pytest.approx(math.log(2))
    assert divergences.reverse_kl(reference, student).item() == pytest.approx(math.log(2))


@st.composite
def pairs(draw):
    """Logits of a student and a reference: unrelated, extreme, near-equal or equal."""
    choices, rows = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    scale = draw(st.sampled_from([1e-3, 1.0, 10.0, 1e3]))
    seed = draw(st.integers(0, 2**31))
    distance = draw(st.sampled_from([None, 0.0, 1e-7, 1e-5, 1e-3, 1e-1]))
    random = np.random.default_rng(seed)
    z = random.normal(0, scale, (rows, choices))
    w = random.normal(0, scale, z.shape) if distance is None else z + distance * random.normal(size=z.shape)
    return z, w


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(pair=pairs(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_never_negative_never_nan(name, pair, dtype):
    z, w = (torch.tensor(x, dtype=dtype) for x in pair)
    z.requires_grad_()
    value = find_divergence(name)(z.log_softmax(-1), w.log_softmax(-1))
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert torch.isfinite(value).all()
    assert (value >= 0).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), choices=st.integers(2, 40), distance=st.sampled_from([0.0, 1e-3, 1e-2, 1e-1]))
def test_half_precision_logits_are_compared_in_float32(name, seed, choices, distance):
    random = np.random.default_rng(seed)
    z = random.normal(0, 3, (3, choices))
    z, w = (torch.tensor(x).bfloat16() for x in (z, z + distance * random.normal(size=z.shape)))
    p, q = (softmax(x.double().numpy()) for x in (z, w))
    value = Objective(name).total(Dense(z), Dense(w))
    assert value.dtype == torch.float32
    assert value >= 0
    expected = CLOSED_FORMS[name](p, q)[0].sum()
    assert value.item() == pytest.approx(expected, abs=3e-6, rel=1e-5)  # three rows of 1e-6


def test_parameters_are_those_of_the_signature():
    with pytest.raises(TypeError, match="it accepts \\['beta'\\]"):
        find_divergence("jensen-shannon", a=0.5)
    with pytest.raises(TypeError, match="accepts none"):
        find_divergence("reverse-kl", beta=0.5)
    assert isinstance(find_divergence("skewed-kl", a=0.2), partial)
