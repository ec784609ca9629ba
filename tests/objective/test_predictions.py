"""Rows: dense, projected slice by slice, and coarse; what the objective reads is the same distribution."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from keeltune.objective.formula import Objective
from keeltune.objective.predictions import IGNORED, Coarse, Dense, Projected, cross_entropy, nll, slices
from tests.helpers.tensors import NAMES, normal

COARSE_NAMES = [name for name in NAMES if name != "logit-mse"]  # the tail of a top-k has no logit


def top(logits: Tensor, k: int, temperature: float = 1.0) -> Coarse:
    """The k likeliest choices and the mass of the rest, summed in probabilities."""
    probabilities = (logits / temperature).softmax(-1)
    kept, ids = probabilities.topk(k, dim=-1)
    tail = probabilities.scatter(-1, ids, 0.0).sum(-1, keepdim=True)
    return Coarse(ids, torch.cat([kept, tail], dim=-1).log(), temperature)


# Dense


@pytest.mark.parametrize(
    ("dtype", "read"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float32, torch.float32),
     (torch.float64, torch.float64)],
)  # fmt: skip
def test_log_probs_are_float32_at_least(dtype, read):
    logits = normal(3, 5, seed=0).to(dtype)
    found = Dense(logits).log_probs(slice(0, 2), 2.0)
    assert found.dtype == read
    torch.testing.assert_close(found, (logits[:2].to(read) / 2).log_softmax(-1), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["reverse-kl", "forward-kl", "jensen-shannon"])
def test_near_equal_logits_of_a_large_vocabulary_stay_positive(name):
    """In bf16 itself the same KL comes out negative (Liger, V = 151 936)."""
    z = normal(2, 151_936, seed=1, dtype=torch.float32)
    z, w = z.bfloat16(), (z + 0.02 * normal(2, 151_936, seed=2, dtype=torch.float32)).bfloat16()
    p, q = z.double().log_softmax(-1), w.double().log_softmax(-1)
    value = Objective(name).total(Dense(z), Dense(w)).item()
    exact = Objective(name).total(Dense(z.double()), Dense(w.double())).item()
    assert value >= 0
    assert value == pytest.approx(exact, rel=1e-2, abs=2e-6)
    assert exact > 1e-6
    if name == "reverse-kl":
        assert exact == pytest.approx((p.exp() * (p - q)).sum().item(), rel=1e-9)


def test_nll_is_torchs_and_0_where_there_is_no_label():
    logits, targets, weights = normal(7, 4, seed=3), torch.tensor([0, 1, IGNORED, 3, 2, IGNORED, 1]), torch.arange(7.0)
    theirs = torch.nn.functional.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(nll(Dense(logits), targets), theirs, rtol=0, atol=1e-14)
    torch.testing.assert_close(nll(Dense(logits), targets, weights, size=3), theirs * weights, rtol=0, atol=1e-14)
    torch.testing.assert_close(cross_entropy(Dense(logits), targets), theirs.sum(), rtol=0, atol=1e-13)


def test_all_masked_has_a_graph_and_no_gradient():
    logits = normal(3, 4, seed=4).requires_grad_()
    loss = cross_entropy(Dense(logits), torch.full((3,), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(3, 4))


def test_a_masked_choice_of_an_unlabelled_row_gives_no_nan():
    logits = torch.tensor([[-math.inf, 1.0, 2.0], [0.0, 1.0, 2.0]], requires_grad=True)
    cross_entropy(Dense(logits), torch.tensor([IGNORED, 1])).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("n", "size", "expected"), [(0, 4, [0]), (4, 4, [4]), (10, 4, [4, 4, 2]), (3, 8, [3])])
def test_slices_cover_everything_once_and_are_never_none(n, size, expected):
    rows = torch.arange(n)
    parts = [rows[part] for part in slices(Dense(rows), size)]
    assert [len(part) for part in parts] == expected
    assert torch.equal(torch.cat(parts), rows)


# Projected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 4, 64])
def test_projected_is_dense_in_value_and_gradient(name, size):
    torch.manual_seed(0)
    head, hidden = nn.Linear(8, 13).double(), normal(10, 8, seed=5)
    reference, targets = Dense(normal(10, 13, seed=6)), torch.arange(10)

    def step(make) -> list[Tensor]:
        head.zero_grad()
        h = hidden.clone().requires_grad_()
        rows = make(h)
        loss = cross_entropy(rows, targets, size=size) + Objective(name, temperature=2, size=size).total(
            rows, reference
        )
        loss.backward()
        return [loss.detach(), h.grad, head.weight.grad.clone(), head.bias.grad.clone()]

    for a, b in zip(step(lambda h: Projected(h, head)), step(lambda h: Dense(head(h))), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def saved_elements(compute) -> int:
    """The largest tensor kept for a backward pass, in elements."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        alive.append(tensor)  # so that no address is used twice
        return tensor

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute()
    return max(kept.values())


MEASURES = ["cross-entropy", "divergence"]


def projected_memory(measure: str) -> tuple[int, int]:
    """(largest tensor kept, N × C) of one measure in slices of an eighth, in elements."""
    n, choices = 64, 500
    head, hidden = nn.Linear(4, choices), normal(n, 4, seed=7, dtype=torch.float32).requires_grad_()
    teacher = Projected(normal(n, 4, seed=8, dtype=torch.float32), nn.Linear(4, choices).requires_grad_(False))
    if measure == "cross-entropy":
        kept = saved_elements(lambda: cross_entropy(Projected(hidden, head), torch.arange(n), size=8))
    else:
        kept = saved_elements(lambda: Objective(size=8).total(Projected(hidden, head), teacher))
    return kept, n * choices


@pytest.mark.parametrize("measure", MEASURES)
def test_projected_keeps_no_tensor_of_n_times_c(measure):
    largest, whole = projected_memory(measure)
    assert largest <= whole / 8


# Coarse


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31), choices=st.integers(2, 12), scale=st.sampled_from([0.1, 1.0, 5.0, 30.0]),
    name=st.sampled_from(COARSE_NAMES),
)  # fmt: skip
def test_coarse_is_a_lower_bound_that_grows_to_the_full_divergence(seed, choices, scale, name):
    student, reference = normal(3, choices, seed=seed, scale=scale), normal(3, choices, seed=seed + 1, scale=scale)
    full = Objective(name).total(Dense(student), Dense(reference)).item()
    values = [Objective(name).total(Dense(student), top(reference, k)).item() for k in range(1, choices + 1)]
    slack = 1e-9 * max(1.0, full)
    assert values[0] >= 0
    assert all(a <= b + slack for a, b in itertools.pairwise(values))
    assert values[-1] == pytest.approx(full, abs=slack)


@pytest.mark.parametrize("name", COARSE_NAMES)
@pytest.mark.parametrize("k", [1, 3, 6])
def test_coarse_gradients_are_finite_and_those_of_the_full_divergence_at_k_c(name, k):
    reference, gradients = normal(4, 6, seed=10), []
    for rows in (top(reference, k), Dense(reference)):
        student = normal(4, 6, seed=9).requires_grad_()
        Objective(name).total(Dense(student), rows).backward()
        gradients.append(student.grad)
    assert torch.isfinite(gradients[0]).all()
    assert (gradients[0] - gradients[1]).abs().max() < 1e-12 if k == 6 else True


def test_the_top_k_is_not_renormalised_and_the_tail_not_dropped():
    """Both sides agree on the ratio of the two kept choices; they disagree on the mass beyond them."""
    student, reference = torch.tensor([[0.01, 0.01, 0.98]]).log(), torch.tensor([[0.45, 0.45, 0.10]]).log()
    rows = top(reference, 2)
    ours = Objective("reverse-kl").total(Dense(student), rows).item()
    by_hand = 0.02 * math.log(0.01 / 0.45) + 0.98 * math.log(9.8)
    assert ours == pytest.approx(by_hand, rel=1e-5)
    kept = [x.gather(-1, rows.ids).log_softmax(-1) for x in (student, reference)]  # the trap: renormalise both
    assert Objective("reverse-kl").function(*kept).item() == pytest.approx(0.0, abs=1e-6)
    kept = [x.gather(-1, rows.ids) for x in (student, reference)]  # the other: neither renormalise nor keep a tail
    assert (kept[0].exp() * (kept[0] - kept[1])).sum() < 0


def test_coarse_rows_follow_their_slice():
    student, rows = normal(10, 6, seed=11), top(normal(10, 6, seed=12), 3)
    whole = Objective(size=64).total(Dense(student), rows).item()
    assert Objective(size=3).total(Dense(student), rows).item() == pytest.approx(whole, abs=1e-12)


def test_a_coarse_distribution_is_read_at_its_own_temperature_only():
    student, reference = normal(3, 6, seed=13), normal(3, 6, seed=14)
    rows = top(reference, 6, temperature=2.0)
    full = Objective(temperature=2.0).total(Dense(student), Dense(reference)).item()
    assert Objective(temperature=2.0).total(Dense(student), rows).item() == pytest.approx(full, abs=1e-12)
    with pytest.raises(ValueError, match=r"stored at temperature 2.0, expected 1.0"):
        Objective().total(Dense(student), rows)


def test_coarse_rows_of_the_wrong_width_are_refused():
    with pytest.raises(ValueError, match="expected one more than the choices"):
        Coarse(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3))
