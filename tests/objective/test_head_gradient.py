"""The head's gradient, made in the forward pass: the numbers of dense logits, three products, nothing of N × C."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from keeltune.objective.derived_predictions import Shared, Tempered
from keeltune.objective.formula import Counts, Objective
from keeltune.objective.predictions import (
    IGNORED,
    Coarse,
    Dense,
    Projected,
    Rows,
    cross_entropy,
    sliced_cross_entropy,
)
from keeltune.objective.stored_predictions import Hidden
from keeltune.training.rehearsal import LiveBytes
from tests.helpers.tensors import NAMES
from tests.helpers.tensors import normal as exact_normal

N, H, C = 11, 6, 23
HEADS = ["linear", "bias", "capped", "scaled", "tied", "frozen", "adapter", "function"]
REFERENCES = ["none", "dense", "top-k", "hidden", "tempered", "shared"]


def normal(*shape: int, **options: Any) -> Tensor:
    """Numbers that bfloat16 holds, so that no precision starts with an error."""
    made = exact_normal(*shape, **options)
    return made.bfloat16().to(made.dtype)


class Head(nn.Module):
    """A vocabulary head of one of `HEADS`, as models have them; `tied` reads its own matrix as embeddings."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.matrix = nn.Linear(H, C, bias=kind == "bias").double()
        self.matrix.weight.data = normal(C, H, seed=1, scale=0.7)
        if self.matrix.bias is not None:
            self.matrix.bias.data = normal(C, seed=8)
        self.matrix.requires_grad_(kind not in ("frozen", "adapter"))
        self.scale = nn.Parameter(normal(C, seed=2)) if kind == "scaled" else None
        self.low = nn.ParameterList([normal(H, 2, seed=3), normal(2, C, seed=4)]) if kind == "adapter" else None

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = hidden @ self.matrix.weight.t() if self.kind == "function" else self.matrix(hidden[None])[0]
        if self.kind == "capped":
            logits = 3.0 * torch.tanh(logits / 3.0)
        if self.scale is not None:
            logits = logits * self.scale
        return logits if self.low is None else logits + hidden @ self.low[0] @ self.low[1]


def hidden_of(head: Head) -> tuple[Tensor, Tensor]:
    """The head's input [N, H], and the leaf it is made of."""
    leaf = normal(N, H, seed=5).to(head.matrix.weight.dtype).requires_grad_()
    read = leaf + head.matrix.weight[torch.arange(N)] if head.kind == "tied" else leaf * 1.0
    return read, leaf


def reference_of(kind: str, temperature: float) -> Rows | None:
    logits = normal(N, C, seed=6)
    if kind == "top-k":
        kept, ids = (logits / temperature).softmax(-1).topk(4)
        tail = (logits / temperature).softmax(-1).scatter(-1, ids, 0.0).sum(-1, keepdim=True)
        return Coarse(ids, torch.cat([kept, tail], dim=-1).log(), temperature)
    if kind == "hidden":
        form = Hidden(H, torch.float64, nn.Linear(H, C).double().requires_grad_(False), C)
        return form.read({"hidden": normal(N, H, seed=7)}, [N], [C])
    return {"none": None, "dense": Dense(logits), "tempered": Tempered(Dense(logits), 1.4),
            "shared": Shared(Dense(logits), slice(0, C - 3))}[kind]  # fmt: skip


Make = Callable[[Tensor, Head], Rows]


def step(make: Make, head: Head, objective: Objective, reference: Rows | None) -> list[Tensor]:
    """The loss, both sums, and the gradient of all that has one; some targets have no label, some rows no anchor."""
    head.zero_grad()
    hidden, leaf = hidden_of(head)
    targets = (7 * torch.arange(N)) % C
    targets[2] = IGNORED
    weights = torch.linspace(0.5, 1.5, N, dtype=leaf.dtype)
    terms = objective(
        sliced_cross_entropy(targets, weights), make(hidden, head), reference, torch.arange(N) != 3,
        counts=Counts(torch.tensor(float(N - 1)), 7.0),
    )  # fmt: skip
    (3.0 * terms.loss).backward()
    grads = [p.grad for p in (leaf, *head.parameters()) if p.grad is not None]
    return [*(term.detach() for term in terms), *grads]


def dense(hidden: Tensor, head: Head) -> Rows:
    return Dense(head(hidden))


CASES = [*itertools.product(NAMES, REFERENCES, ["bias"]), *itertools.product(["jensen-shannon"], REFERENCES, HEADS)]


@pytest.mark.parametrize("size", [4, None])
def test_value_and_gradient_are_those_of_dense_logits(size):
    for number, (name, reference, kind) in enumerate(CASES):
        if name == "logit-mse" and reference == "top-k":  # the tail of a top-k has no logit
            continue
        temperature = 1.0 if name == "total-variation" or number % 2 else 2.0
        torch.manual_seed(0)
        head, rows = Head(kind), reference_of(reference, temperature)
        objective = Objective(name, weight=0.7, temperature=temperature, size=size)
        for ours, theirs in zip(*(step(make, head, objective, rows) for make in (Projected, dense)), strict=True):
            assert ours.shape == theirs.shape
            assert (ours - theirs).abs().max() <= 1e-10, (name, reference, kind)


@pytest.mark.parametrize("kind", HEADS)
def test_in_float32_the_gradient_is_as_near_the_exact_one_as_that_of_dense_logits(kind):
    head, rows, objective = Head(kind), reference_of("dense", 1.0), Objective(size=4)
    exact = step(dense, head, objective, rows)
    head.float()
    found = [step(make, head, objective, rows) for make in (Projected, dense)]
    for ours, theirs, number in zip(*found, exact, strict=True):
        assert (ours - number).norm() <= max(2 * (theirs - number).norm(), 5e-7 * number.norm(), 1e-7), kind


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_in_bfloat16_slices_add_no_error(how):
    """Each slice's dW is rounded, their sum is not: the error stays that of one product over all rows."""
    exact = step(dense, Head("bias"), Objective(), reference_of("dense", 1.0))
    head = Head("bias").to(torch.bfloat16 if how == "weights" else torch.float32)

    def autocast(hidden: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            return head(hidden)

    errors = []
    for make in (lambda hidden, _: Projected(hidden, autocast), lambda hidden, _: Dense(autocast(hidden))):
        made = step(make, head, Objective(size=2), reference_of("dense", 1.0))
        assert [m.dtype for m in made[3:]] == [torch.bfloat16 if how == "weights" else torch.float32] * 3
        errors.append([((m.double() - e).norm() / e.norm()).item() for m, e in zip(made, exact, strict=True)])
    for ours, theirs in zip(*errors, strict=True):
        assert ours <= 1.2 * theirs
        assert ours < 0.01


def _weighed(log_probs: Tensor, part: slice) -> Tensor:
    """A loss whose weights are read of the same choices, and are no part of its gradient."""
    with torch.no_grad():
        weights = log_probs.gather(-1, torch.arange(C)[part, None])
    return (weights * log_probs[:, :1]).sum()


def _negated_in_place(log_probs: Tensor, part: slice) -> Tensor:
    return log_probs.gather(-1, torch.arange(C)[part, None]).neg_().sum()


FUNCTIONS: dict[str, Callable[[Tensor, slice], Tensor]] = {
    "a plain sum": lambda log_probs, part: log_probs.sum(),
    "weights that were gathered": _weighed,
    "gathered and written to": _negated_in_place,
    "a view": lambda log_probs, part: log_probs[0, 0],
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_of_log_probs_may_be_any(function):
    """Of one row a slice, so that a view of it is a sum."""
    found = []
    for make in (Projected, dense):
        head = Head("bias")
        hidden, leaf = hidden_of(head)
        value = make(hidden, head).total(function, size=1)
        value[0].backward()
        found.append([value.detach(), *(tensor.grad for tensor in (leaf, *head.parameters()))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


# What it costs


class Operations(TorchDispatchMode):
    """Within: `products`, multiplications in matrix products, and `largest`, numbers of the largest tensor made."""

    products = largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.strip("_")
        if name in ("mm", "addmm", "bmm"):
            left, right = args[-2:]
            self.products += left.numel() * right.shape[-1]
        self.largest = max([self.largest, *(t.numel() for t in tree_leaves(result) if isinstance(t, Tensor))])
        return result


def products(run: Callable[[], Any]) -> float:
    """Products of [N, H] and [H, C] in `run()`."""
    with Operations() as operations:
        run()
    return operations.products / (N * H * C)


@pytest.mark.parametrize(("kind", "expected"), [("linear", 3), ("bias", 3), ("capped", 3), ("frozen", 2)])
@pytest.mark.parametrize("reference", ["none", "dense"])
def test_a_step_takes_three_products_and_recomputes_none(kind, expected, reference):
    head, rows = Head(kind), reference_of(reference, 1.0)
    assert products(lambda: step(Projected, head, Objective(size=4), rows)) == expected


def test_a_frozen_trunk_takes_two_products_and_evaluation_one():
    head, targets = Head("bias"), torch.arange(N)
    hidden = normal(N, H, seed=8)
    assert products(lambda: cross_entropy(Projected(hidden, head), targets, size=4).backward()) == 2
    with torch.no_grad():
        assert products(lambda: cross_entropy(Projected(hidden.requires_grad_(), head), targets, size=4)) == 1


@pytest.mark.parametrize("name", [None, "reverse-kl", "jensen-shannon"])
def test_memory_grows_with_the_slice_alone(name):
    choices, size, bytes_of = 400, 4, {}
    head = nn.Linear(2, choices)
    teacher = Projected(normal(256, 2, seed=9, dtype=torch.float32), nn.Linear(2, choices).requires_grad_(False))
    for n in (64, 256):
        head.zero_grad()
        hidden = normal(n, 2, seed=8, dtype=torch.float32).requires_grad_()
        reference = None if name is None else Projected(teacher.hidden[:n], teacher.head)
        with Operations() as operations, LiveBytes("cpu") as live:
            objective = Objective(name or "reverse-kl", size=size)
            ce = sliced_cross_entropy(torch.arange(n))
            objective(ce, Projected(hidden, head), reference, counts=Counts(n, n)).loss.backward()
        assert operations.largest <= size * choices
        bytes_of[n] = live.most
    assert bytes_of[256] - bytes_of[64] <= 192 * 80  # a prediction's own numbers; a row of logits is 1,600 bytes
    assert bytes_of[64] < (2 if name is None else 12) * size * choices * 4 + 4 * 3 * choices * 4 + 64 * 80


# What a backward pass may be


def test_it_may_run_twice_but_has_no_second_derivative():
    head = Head("bias")
    hidden, leaf = hidden_of(head)
    loss = cross_entropy(Projected(hidden, head), torch.arange(N), size=4)
    inputs = [leaf, *head.parameters()]
    once, again = (torch.autograd.grad(loss, inputs, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    with pytest.raises(RuntimeError, match="found create_graph=True, expected one derivative alone"):
        torch.autograd.grad(loss, leaf, create_graph=True)


def test_what_the_head_reads_may_have_been_made_before_it():
    """A scale that the trunk makes of its own parameters, as a hypernetwork would."""
    found = []
    for make in (Projected, lambda hidden, head: Dense(head(hidden))):
        source, hidden = normal(C, seed=2).requires_grad_(), normal(N, H, seed=5).requires_grad_()
        scale, head = source.exp(), Head("linear")
        cross_entropy(make(hidden, lambda x, s=scale, h=head: h(x) * s), torch.arange(N), size=4).backward()
        found.append([source.grad, hidden.grad, head.matrix.weight.grad])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_hooks_of_parameters_run_once_on_the_whole_gradient():
    seen: list[Tensor] = []
    for hooked in ("matrix.weight", "matrix.bias"):
        head, plain = Head("bias"), Head("bias")
        plain.load_state_dict(head.state_dict())
        head.get_parameter(hooked).register_hook(lambda gradient: seen.append(gradient) or 2 * gradient)
        for each in (head, plain):
            cross_entropy(Projected(hidden_of(each)[0], each), torch.arange(N), size=4).backward()
        torch.testing.assert_close(head.get_parameter(hooked).grad, 2 * plain.get_parameter(hooked).grad)
    assert len(seen) == 2


def _in_autocast(hidden: Tensor, head: Head) -> Tensor:
    with torch.autocast("cpu", torch.float16):
        return head(hidden).float()


HALVES: dict[str, tuple[torch.dtype, torch.dtype, Callable[[Tensor, Head], Tensor]]] = {
    "all of it": (torch.float16, torch.float16, lambda hidden, head: head(hidden)),
    "but the logits": (torch.float16, torch.float16, lambda hidden, head: head(hidden).float()),
    "in autocast": (torch.float32, torch.float32, _in_autocast),
    "what the head reads": (torch.float16, torch.float32, lambda hidden, head: head(hidden.float())),
    "its weights": (torch.float32, torch.float16, lambda hidden, head: hidden @ head.matrix.weight.float().t()),
}


@pytest.mark.parametrize(("of_hidden", "of_head", "applied"), HALVES.values(), ids=HALVES)
def test_a_loss_scaler_multiplies_before_float16_is_made(of_hidden, of_head, applied):
    """A gradient of 1e-9 is nothing in float16; multiplied by 2^16 it is there."""
    head = Head("linear").to(of_head)
    hidden = normal(N, H, seed=5).to(of_hidden).requires_grad_()
    rows = Projected(hidden, lambda part: applied(part, head))
    terms = Objective()(sliced_cross_entropy(torch.arange(N)), rows, counts=Counts(1e8, 1e8))
    (terms.loss * 2**16).backward()
    for tensor in (hidden, head.matrix.weight):
        assert tensor.grad.count_nonzero() == tensor.numel()


def test_a_micro_batch_without_predictions_has_a_graph():
    head = Head("bias")
    hidden = torch.zeros(0, H, dtype=torch.float64, requires_grad=True)
    terms = Objective()(
        sliced_cross_entropy(torch.zeros(0, dtype=torch.long)), Projected(hidden, head, C),
        Dense(torch.zeros(0, C)), counts=Counts(0.0, 0.0),
    )  # fmt: skip
    terms.loss.backward()
    assert terms.loss.item() == 0
    assert not head.matrix.weight.grad.any()


def test_a_head_and_a_trunk_that_are_frozen_have_no_gradient_and_the_value():
    head, targets = Head("frozen"), torch.arange(N)
    rows = Projected(normal(N, H, seed=5), head)
    loss = cross_entropy(rows, targets, size=4)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, cross_entropy(Dense(head(rows.hidden)), targets))
