"""The gradient of a sum over slices of a vocabulary head's output, made in the forward pass.

    value = Σ over slices of ℓ(log softmax(z))          z = head(x), x [n, H] a slice of the head's input [N, H]
    dz    = ∂ℓ/∂z [n, C];   dx = dz W;   dW = Σ over slices of dzᵀ x          W [C, H] the head's matrix

A loss is one number, and what multiplies it in the backward pass multiplies its gradient alike: dz need not wait. Each
slice is projected, differentiated and forgotten: three products of [n, H] and [H, C] where a slice that is computed
again takes four. The head is any function and autograd differentiates it, with what is done behind it (a bias, a cap,
adapters); its products alone are done here, so that each slice's dW is added in place.

Shapes: N predictions, n of them in a slice, C choices, H the width of the head's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from keeltune.objective.log_probs import full_precision, gradient_at_logits, log_softmax

OfSlice = Callable[[Tensor, slice], Tensor]

BLOCK = 2**20
"""Numbers of a slice's logits that are differentiated at a time: 4 MiB in float32."""


def summed(
    hidden: Tensor, head: Callable[[Tensor], Tensor], parts: Iterable[slice], function: OfSlice, temperature: float
) -> Tensor | None:
    """Σ over `parts` of `function(log softmax(head(hidden[part]) / temperature), part)`, [k], its gradient known.

    `function` gives a loss, and after it what is only measured: a scalar or [k], of which the first is differentiated.
    None where the gradient must wait for the backward pass: float16 holds it only multiplied by a loss scaler's factor,
    wherever it is on the way, and hooks of the head's parameters expect it once and whole.
    """
    gradients, values = _Gradients(), []
    of_hidden = torch.zeros_like(hidden) if hidden.requires_grad else None
    for part in parts:
        x = hidden[part].detach().requires_grad_(of_hidden is not None)
        with torch.enable_grad(), _Products(gradients) as products:
            logits = head(x.view_as(x))  # no leaf, which hooks of modules cannot have in `autograd.grad`
        leaves = [leaf for leaf in _leaves(logits) if leaf is not x]
        if products.float16 or any(leaf.dtype == torch.float16 or leaf._backward_hooks for leaf in leaves):
            return None
        inputs = [x, *leaves] if of_hidden is not None else leaves
        edge = get_gradient_edge(logits) if inputs else None
        value, at_logits = _differentiated(logits.detach(), part, function, temperature)
        del logits  # its graph stays, its numbers go
        values.append(value)
        if edge is None or at_logits is None:
            continue
        # what the head reads and did not make itself is gone through again by the next slice: its graph is retained
        made = torch.autograd.grad(edge, inputs, at_logits, retain_graph=True, allow_unused=True)
        del edge, at_logits
        for tensor, gradient in zip(inputs, made, strict=True):
            if of_hidden is not None and tensor is x:
                of_hidden[part] = gradient
            elif gradient is not None:
                gradients.add(tensor, gradient)
    pairs = gradients.pairs if of_hidden is None else [(hidden, of_hidden), *gradients.pairs]
    known: Tensor = _Known.apply(torch.stack(values).sum(0), [made for _, made in pairs], *(of for of, _ in pairs))
    return known


def _differentiated(logits: Tensor, part: slice, function: OfSlice, temperature: float) -> tuple[Tensor, Tensor | None]:
    """What `function` gives of a slice, [k], and the gradient of the first at its logits [n, C]; None: it has none.

    Some rows at a time, whose dozen tables stay in a processor's cache: of [n, C] there is the gradient alone.
    """
    values, at_logits, has_gradient = [], torch.empty_like(logits), False
    rows = max(1, BLOCK // max(1, logits.shape[-1]))
    for start in range(0, max(len(logits), 1), rows):
        block = logits[start : start + rows]
        log_probs = log_softmax(block, temperature).requires_grad_()
        with torch.enable_grad(), _Picks(log_probs) as picks:
            value = function(log_probs, slice(part.start + start, part.start + start + len(block))).reshape(-1)
        values.append(value.detach().clone())  # it may be a view of the table that is overwritten below
        if not value.requires_grad:
            at_logits[start : start + rows] = 0.0
        else:
            has_gradient = True
            dense, *sparse = torch.autograd.grad(value[0], [log_probs, *picks.leaves], allow_unused=True)
            picked = [(choices, of) for choices, of in zip(picks.choices, sparse, strict=True) if of is not None]
            at_logits[start : start + rows] = gradient_at_logits(log_probs.detach(), dense, picked, temperature)
    return torch.stack(values).sum(0), at_logits if has_gradient else None


class _Picks(TorchFunctionMode):
    """Within, what is gathered of `log_probs` is a leaf of its own, its gradient no table of zeros [n, C]."""

    def __init__(self, log_probs: Tensor):
        super().__init__()
        self.log_probs = log_probs
        self.choices: list[Tensor] = []
        self.leaves: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not Tensor.gather or args[0] is not self.log_probs or args[1:2] != (-1,) or len(args) != 3 or kwargs:
            return result
        if not result.requires_grad:  # gathered under `no_grad`
            return result
        leaf = result.detach().requires_grad_()
        self.choices.append(args[2])
        self.leaves.append(leaf)
        return leaf.clone()  # which may be written to, as a leaf may not


class _Gradients:
    """What the head is made of, each with its gradient's sum over the slices: float32 at least."""

    def __init__(self) -> None:
        self._sums: dict[int, tuple[Tensor, Tensor]] = {}
        self._cast: dict[int, Tensor] = {}

    @property
    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        return list(self._sums.values())

    def add(self, of: Tensor, gradient: Tensor) -> None:
        if id(of) in self._sums:
            self._sums[id(of)][1].add_(gradient)
        else:
            self._sums[id(of)] = of, full_precision(gradient.clone())  # autograd may give two inputs one tensor

    def add_product(self, weight: Tensor, at_output: Tensor, x: Tensor) -> None:
        """dzᵀ x [C, H] of dz [m, C] and x [m, H]; no second [C, H] is made of them in full precision."""
        if id(weight) not in self._sums:
            self._sums[id(weight)] = weight, full_precision(torch.mm(at_output.t(), x))
        elif (held := self._sums[id(weight)][1]).dtype == at_output.dtype:
            held.addmm_(at_output.t(), x)
        else:
            held.add_(torch.mm(at_output.t(), x))

    def cast(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The matrix as autocast reads it, made once and not for each slice."""
        if id(weight) not in self._cast:
            self._cast[id(weight)] = weight.detach().to(dtype)
        return self._cast[id(weight)]


class _Products(TorchFunctionMode):
    """Within, a linear layer whose matrix is trained adds to that matrix's sum when it is differentiated.

    `float16`: whether anything was computed in it.
    """

    def __init__(self, gradients: _Gradients):
        super().__init__()
        self.gradients = gradients
        self.float16 = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self._computed(func, args, kwargs)
        self.float16 |= isinstance(result, Tensor) and result.dtype == torch.float16
        return result

    def _computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is functional.linear and not kwargs:
            x, weight, bias = (*args, None)[:3]
            ours = type(weight) in (Tensor, torch.nn.Parameter) and weight.dim() == 2 and x.dim() > 1
            if ours and weight.is_leaf and weight.requires_grad:
                return self._linear(x, weight, bias)
        return func(*args, **(kwargs or {}))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        matrix, kind = weight.detach(), x.device.type
        on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        if on and weight.dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)
            matrix = self.gradients.cast(weight, dtype)
            x, bias = x.to(dtype), bias if bias is None else bias.to(dtype)
        made: Tensor = _Linear.apply(x, bias, weight, matrix, self.gradients)
        return made


class _Linear(torch.autograd.Function):
    """x Wᵀ + b: [..., H] -> [..., C], W `matrix`; its backward pass adds dW to the sum of `weight` in `gradients`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, weight: Tensor, matrix: Tensor, gradients: _Gradients
    ) -> Tensor:
        ctx.save_for_backward(x, matrix)
        ctx.weight, ctx.gradients = weight, gradients
        return functional.linear(x, matrix, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, at_output: Tensor) -> tuple[Tensor | None, ...]:
        x, matrix = ctx.saved_tensors
        flat = at_output.flatten(0, -2)
        ctx.gradients.add_product(ctx.weight, flat, x.flatten(0, -2))
        of_x = at_output @ matrix if ctx.needs_input_grad[0] else None
        of_bias = flat.sum(0) if ctx.needs_input_grad[1] else None
        return of_x, of_bias, None, None, None


class _Known(torch.autograd.Function):
    """`value` [k] as what it is, the gradients of its first number with respect to `of` being known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *of: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [tensor.dtype for tensor in of]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, at_value: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "found create_graph=True, expected one derivative alone: the gradient of a vocabulary head in slices "
                "is made in the forward pass and has none of its own; that of Dense(head(hidden)) has"
            )
        known, factor = ctx.saved_tensors, at_value[0]
        if not _graph_is_kept():  # nobody reads them again: no second [C, H] is made
            known = [each.mul_(factor) for each in known]
        else:
            known = [each * factor for each in known]
        return None, None, *(each.to(dtype) for each, dtype in zip(known, ctx.dtypes, strict=True))


def _graph_is_kept() -> bool:
    """Whether the backward pass that runs was called with `retain_graph`; True where this torch does not say."""
    says = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return says is None or bool(says())


def _leaves(made: Tensor) -> list[Tensor]:
    """The leaves of the graph that `made` came of."""
    todo: list[Any] = [made.grad_fn]
    seen, found = set(), []
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if type(node).__name__ == "AccumulateGrad":
                found.append(node.variable)
            todo += [before for before, _ in node.next_functions]
    return found
