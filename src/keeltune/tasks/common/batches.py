"""Examples in batches: padded tensors, batches of similar length, and answers in the order of the rows.

Shapes: B examples of a batch, N predictions, S tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from keeltune.objective.predictions import IGNORED, Rows, nll
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.common.stored_examples import counts_of, flat, lengths_of
from keeltune.utils.system_faults import is_out_of_memory

Autocast = Callable[[], AbstractContextManager[Any]]

T = TypeVar("T")


def losses_by_example(rows: Rows, batch: Mapping[str, Any]) -> list[float]:
    """Σ CE of each example of a batch, in nats."""
    parts = nll(rows, batch["targets"], batch["weights"]).split(batch["counts"].tolist())
    return [part.sum().item() for part in parts]


def labelled_and_anchored(batch: Mapping[str, Any]) -> tuple[float, float]:
    """n_CE and n_D of a batch: the weights of its labelled targets, and its anchored predictions."""
    labelled = ((batch["targets"] != IGNORED) * batch["weights"]).sum()
    return float(labelled), float(batch["anchored"].sum())


def collated(examples: Sequence[Example], pad: Callable[[Sequence[Mapping[str, Any]]], Any]) -> dict[str, Any]:
    """Examples as a batch: `inputs`, `targets` [N], `weights` [N], `anchored` [N] bool, `keys`, the others.

    `predicted` [B, T] bool marks the output positions that are the N predictions, row by row. `shapes` are the sizes
    that the examples' inputs have without padding. `work` is what the forward pass reads: tokens, and slots (tokens and
    padding). `encoded` is what the examples say of n_CE and N, for the self-test. `pad` makes a model's tensors of
    inputs of uneven length.
    """
    counts = torch.tensor([e.predictions for e in examples])
    batch: dict[str, Any] = {
        "inputs": pad([e.inputs for e in examples]),
        "targets": torch.tensor([t for e in examples for t in e.targets], dtype=torch.long),
        "weights": torch.tensor([w for e in examples for w in e.weights], dtype=torch.float32),
        "anchored": torch.tensor([e.anchored for e in examples]).repeat_interleave(counts),
        "counts": counts,
        "keys": [e.key for e in examples],
        "notes": [e.notes for e in examples],
        "shapes": [shapes(e) for e in examples],
        "encoded": [sum(e.labelled for e in examples), sum(e.predictions for e in examples)],
        "work": [sum(e.length for e in examples), len(examples) * max(e.length for e in examples)],
    }
    if any(e.predicted for e in examples):
        batch["predicted"] = stack([e.predicted for e in examples], fill=False)
    return batch


def shapes(example: Example) -> Mapping[str, Sequence[int]]:
    """The sizes of an example's inputs that a batch pads, by their names."""
    known: Mapping[str, Sequence[int]] | None = example.notes.get("shapes")
    return {n: (len(v),) for n, v in example.inputs.items() if isinstance(v, list)} if known is None else known


def stack(rows: Sequence[Sequence[Any]], *, fill: Any, left: bool = False) -> Tensor:
    """Sequences of uneven length as one tensor [B, longest], padded with `fill` at the right (or the left)."""
    tensors = [torch.as_tensor(row) for row in rows]
    longest = max(len(row) for row in tensors)
    dtype = torch.bool if isinstance(fill, bool) else tensors[0].dtype
    table = torch.full((len(rows), longest, *tensors[0].shape[1:]), fill, dtype=dtype)
    for i, row in enumerate(tensors):
        start = longest - len(row) if left else 0
        table[i, start : start + len(row)] = row
    return table


def to_device(batch: Mapping[str, Any], device: str | torch.device) -> dict[str, Any]:
    """A batch with its tensors, also the nested ones, on `device`."""
    on_device: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, Mapping):
            on_device[name] = to_device(value, device)
        else:
            on_device[name] = value.to(device) if isinstance(value, Tensor) else value
    return on_device


Size = int | Callable[[int], int]
"""How many examples a batch has at most; or how many of those whose longest has that length."""

SCORED, SCORED_AT_MOST, SLOTS = 64, 256, 16_384
"""Rows of a batch of answers; where short texts are written as many more as the tokens, read and written, allow.

A step of writing reads all weights for one token a row: 512 texts of 24 tokens by a Marian of 75 M weights took 26.8,
21.0 and 20.0 s of a core in batches of 64, 128 and 256, 256 texts of 16 by SmolLM2-135M 33.2, 30.0 and 32.7 s.
"""


def rows_at_once(settings: Settings, generates: bool, longest: int) -> int:
    """Rows that are answered in one batch, the longest of which has that many tokens to read."""
    if not generates:
        return SCORED
    slots = (longest + settings.max_new_tokens) * settings.beams
    return max(SCORED, min(SCORED_AT_MOST, SLOTS // slots))


def by_length(examples: Sequence[Example], size: Size) -> list[list[int]]:
    """Indices of `examples` in batches of at most `size`, longest first: memory peaks at once, padding is small."""
    lengths = lengths_of(examples)
    order = (-lengths).argsort(kind="stable").tolist()
    batches, start = [], 0
    while start < len(order):
        count = size if isinstance(size, int) else size(int(lengths[order[start]]))
        batches.append(order[start : start + count])
        start += count
    return batches


class Combines(Protocol):
    """A task, as far as it makes one answer to a row of those to its examples."""

    def combine(self, predictions: Sequence[Prediction]) -> Prediction: ...


def answers(
    task: Combines,
    encoded: Sequence[Sequence[Example]],
    predict: Callable[[list[Example]], Sequence[Prediction]],
    *,
    batch_size: Size = SCORED,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Prediction]:
    """The answer to each row, in their order; `predict` is called with batches of examples."""
    examples = flat(encoded)
    predictions = iter(in_batches(examples, predict, batch_size=batch_size, progress=progress))
    return [task.combine([next(predictions) for _ in range(count)]) for count in counts_of(encoded)]


def in_batches(
    examples: Sequence[Example],
    function: Callable[[list[Example]], Sequence[T]],
    *,
    batch_size: Size = SCORED,
    progress: Callable[[int], None] = lambda done: None,
) -> list[T]:
    """What `function` returns of each example, in their order; it is called with batches of similar length, and with
    halves of one that does not fit into the memory: what is said of a row does not depend on those beside it."""
    results: dict[int, T] = {}
    for indices in by_length(examples, batch_size):
        results |= zip(indices, _fitting([examples[i] for i in indices], function), strict=True)
        progress(len(indices))
    return [results[index] for index in range(len(examples))]


def _fitting(examples: list[Example], function: Callable[[list[Example]], Sequence[T]]) -> list[T]:
    try:
        return list(function(examples))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(examples) == 1:
            error.add_note(f"on one row of length {examples[0].length}")
            raise
    half = len(examples) // 2  # here, where nothing holds the tensors of the failed attempt any more
    return [*_fitting(examples[:half], function), *_fitting(examples[half:], function)]
