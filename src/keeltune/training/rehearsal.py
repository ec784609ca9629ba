"""A training step, or the scoring of a batch, run without numbers: how many bytes its tensors take at their most.

The model's own code, the formula and the backward pass run on torch's `meta` device, where a tensor has a shape and no
content; the bytes of every tensor that is alive are counted. What is kept for the backward pass, what is in the way
only for a moment, gradients, and the slices of a large vocabulary are so the real ones of any architecture, for some
hundredths of a second.

Shapes: B rows, T positions, N predictions, V choices.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from keeltune.objective.formula import Counts, Objective
from keeltune.objective.predictions import Dense, Projected, Rows, nll, sliced_cross_entropy
from keeltune.tasks.common.lm_head import LARGE
from keeltune.training.meta_shapes import shapes_of

Inputs = Mapping[str, Tensor]


class LiveBytes(TorchDispatchMode):
    """Within: `now` are the bytes of the tensors made here on a device that are alive, `most` the most there were."""

    def __init__(self, device: str = "meta") -> None:
        super().__init__()
        self.device, self.now, self.most = device, 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device.type == "meta":
            return False if args[0].dtype == torch.bool else 1  # "is the mask of ones alone?": no, there is padding
        result = shapes_of(func, args, kwargs or {})
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device:
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: Any) -> None:
        """Views have the storage of what they are views of."""
        if (place := storage._cdata) not in self._known:
            self._known.add(place)
            self.now += (size := storage.nbytes())
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, place, size)

    def _gone(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size


@contextmanager
def attention_of_cpus() -> Iterator[None]:
    """Within: attention without dropout keeps what torch's kernel for CPUs does; with dropout there is no such kernel,
    and the tables [B, heads, T, T] are kept, which is what torch does on the meta device in any case."""
    plain = nn.functional.scaled_dot_product_attention

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, **options: Any,
    ) -> Tensor:  # fmt: skip
        if dropout_p > 0:
            return plain(query, key, value, attn_mask, dropout_p, is_causal, **options)
        if (groups := query.shape[1] // key.shape[1]) > 1:
            key, value = (heads.repeat_interleave(groups, 1) for heads in (key, value))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
        kernel, scale = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, options.get("scale")
        attended: Tensor = kernel(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]
        return attended

    nn.functional.scaled_dot_product_attention = cast(Any, attention)
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = plain


def step_bytes(
    student: Any,
    references: Sequence[tuple[Any, Inputs]],
    inputs: Inputs,
    predictions: int | None,
    objective: Objective,
    *,
    passes: int = 1,
    accumulates: bool = False,
) -> int:
    """The most bytes of a micro-batch, forward and backward, gradients among them.

    Args:
        student, inputs: a model on the meta device and what it reads there (on a CPU, numbers are computed).
        references: those of the models of the reference.
        predictions: N, of a vocabulary head; None: of a head of another kind, whose outputs are small.
        passes: forward passes of the student. accumulates: gradients of another micro-batch are there already.

    Raises: whatever the model's code does where it asks for a number that is not there.
    """
    student.train()
    device = next(iter(inputs.values())).device.type
    with LiveBytes(device) as live, attention_of_cpus() if device == "meta" else nullcontext():
        for _ in range(1 + accumulates):
            _micro_batch(student, references, inputs, predictions, objective, passes)
    for weight in student.parameters():
        weight.grad = None
    return live.most


def step_operations(
    student: Any,
    references: Sequence[tuple[Any, Inputs]],
    inputs: Inputs,
    predictions: int | None,
    objective: Objective,
    *,
    passes: int = 1,
) -> float:
    """Floating-point operations of a micro-batch's matrix products, forward and backward, an addition and a
    multiplication each: those of layers, of attention (a causal one too is computed whole) and of the head.

    Args and Raises: as of `step_bytes`.
    """
    from torch.utils.flop_counter import FlopCounterMode  # a second, which `check` needs for a plan alone

    student.train()
    with LiveBytes(), FlopCounterMode(display=False) as counter:
        _micro_batch(student, references, inputs, predictions, objective, passes)
    for weight in student.parameters():
        weight.grad = None
    return float(counter.get_total_flops())


def _micro_batch(
    student: Any,
    references: Sequence[tuple[Any, Inputs]],
    inputs: Inputs,
    predictions: int | None,
    objective: Objective,
    passes: int,
) -> None:
    """As `step_loss.StepLoss` runs one: the student, the reference, the formula; and back."""
    rows = [_rows(student, inputs, predictions) for _ in range(passes)]
    device, answers = next(iter(inputs.values())).device, None
    with torch.no_grad():
        for reference, its_inputs in references:
            answers = _rows(reference.eval(), its_inputs, predictions)
        if answers is not None and answers.choices != rows[0].choices:  # compared on the tokens that both know
            answers = _rows(student, inputs, predictions)
    student.train()
    count, losses = torch.ones((), device=device), []
    for of_pass in rows:
        targets = torch.zeros(len(of_pass), dtype=torch.long, device=device)
        terms = objective(sliced_cross_entropy(targets), of_pass, answers, counts=Counts(count, count))
        losses.append(terms.loss)
    torch.stack(losses).mean().backward()


@torch.no_grad()
def scoring_bytes(model: Any, inputs: Inputs, predictions: int | None) -> int:
    """The most bytes of scoring one batch in eval mode; raises as `step_bytes` does."""
    model.eval()
    with LiveBytes() as live, attention_of_cpus():
        rows = _rows(model, inputs, predictions)
        nll(rows, torch.zeros(len(rows), dtype=torch.long, device="meta"))
    return live.most


def _rows(model: Any, inputs: Inputs, predictions: int | None) -> Rows:
    """A model's predictions; a vocabulary head sees N positions alone, in slices as in `lm_head.forward`."""
    if predictions is None or (head := model.get_output_embeddings()) is None:
        outputs = model(**inputs)
        logits = [t for t in tree_leaves(dict(outputs)) if isinstance(t, Tensor) and t.is_floating_point()]
        return Dense(logits[0].reshape(-1, logits[0].shape[-1]))
    seen: list[Tensor] = []
    sliced = predictions * len(head.weight) > LARGE

    def select(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        seen.append(arguments[0].flatten(0, -2)[:predictions].clone())
        return ((seen[-1][:2] if sliced else seen[-1])[None], *arguments[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        outputs = model(**inputs)
    finally:
        handle.remove()
    logits = outputs.logits
    if not sliced:
        return Dense(logits[0])
    applied: Callable[[Tensor], Tensor] = lambda hidden: head(hidden[None])[0]  # noqa: E731
    return Projected(seen[-1], applied, logits.shape[-1])
