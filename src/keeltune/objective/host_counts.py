"""What a micro-batch's tensors say in numbers, counted where it is made, before it lies on a device.

A training step that asks a GPU how many labels a batch has waits for all that was queued before. `with_counts` asks
the host, in the process that makes the batch; the functions below answer from that, and from the tensors where a batch
was not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import pad

from keeltune.objective.marked import Marked, counted
from keeltune.objective.predictions import IGNORED

ENTRY = "host"

TEXT = {"input_ids", "attention_mask", "token_type_ids", "decoder_input_ids", "decoder_attention_mask"}
"""What a model reads of texts."""


@dataclass(frozen=True)
class HostCounts:
    """`terms`: n_CE and n_D, of the batch itself alone. `sizes`: the predictions of each example. `predicted`: marked
    positions. `anchored`, `labelled` [N + 1]: how many lie before each prediction (`Marked.before`). `padded`:
    whether a mask [B, S] of this shape masks anything, for the masks of the batch and of those in it."""

    terms: tuple[float, float] | None
    sizes: list[int]
    predicted: int
    anchored: np.ndarray
    labelled: np.ndarray
    padded: Mapping[tuple[int, ...], bool]


def with_counts(
    batch: dict[str, Any], count: Callable[[Mapping[str, Any]], tuple[float, float]] | None = None
) -> dict[str, Any]:
    """A batch on the host with its counts, and those in it that other readers read.

    `count`: n_CE and n_D of a batch. The counts are no tensors, and stay where they are when a batch is moved; the
    places of what is marked are tensors, and move with it.
    """
    inner = {n: with_counts(v) for n, v in batch.items() if isinstance(v, dict) and "targets" in v}
    anchored, labelled = batch["anchored"], batch["targets"] != IGNORED
    mask = batch.get("predicted")
    counts = HostCounts(
        terms=None if count is None else count(batch),
        sizes=batch["counts"].tolist(),
        predicted=0 if mask is None else int(mask.sum()),
        anchored=counted(anchored),
        labelled=counted(labelled),
        padded=_padded([batch, *inner.values()]),
    )
    places = {"anchored_at": anchored.nonzero().flatten(), "labelled_at": labelled.nonzero().flatten()}
    if mask is not None:
        places["predicted_at"] = mask.nonzero().t().contiguous()
    return {**batch, **inner, **places, ENTRY: counts}


def _padded(batches: Sequence[Mapping[str, Any]]) -> dict[tuple[int, ...], bool]:
    """Shapes of masks with whether they mask anything: those of text alone, and not two of one shape that differ."""
    found: dict[tuple[int, ...], set[bool | None]] = {}
    for batch in batches:
        inputs = {name: v for name, v in batch.get("inputs", {}).items() if isinstance(v, Tensor)}
        if not inputs.keys() <= TEXT:  # a picture's or a sound's mask is made in the model, and may have any shape
            return {}
        for name in ("", "decoder_"):
            ids, mask = inputs.get(f"{name}input_ids"), inputs.get(f"{name}attention_mask")
            if ids is not None:  # without a mask a model may make one of its own
                says = None if mask is None or mask.shape != ids.shape else not bool(mask.all())
                found.setdefault(tuple(ids.shape), set()).add(says)
    return {shape: True in one for shape, one in found.items() if len(one) == 1 and None not in one}


def padded(batch: Mapping[str, Any]) -> Mapping[tuple[int, ...], bool]:
    """Whether masks of these shapes mask anything, as far as it was counted."""
    known: HostCounts | None = batch.get(ENTRY)
    return {} if known is None else known.padded


def terms(batch: Mapping[str, Any], count: Callable[[Mapping[str, Any]], tuple[float, float]]) -> tuple[float, float]:
    """n_CE and n_D."""
    known: HostCounts | None = batch.get(ENTRY)
    return count(batch) if known is None or known.terms is None else known.terms


def sizes(batch: Mapping[str, Any]) -> list[int]:
    """The predictions of each example."""
    known: HostCounts | None = batch.get(ENTRY)
    given: list[int] = batch["counts"].tolist() if known is None else known.sizes
    return given


def anchored(batch: Mapping[str, Any]) -> Marked:
    """The predictions that carry D."""
    known: HostCounts | None = batch.get(ENTRY)
    return Marked.of(batch["anchored"]) if known is None else Marked(batch["anchored_at"], known.anchored)


def labelled(batch: Mapping[str, Any]) -> Marked:
    """The predictions that have a label."""
    known: HostCounts | None = batch.get(ENTRY)
    return Marked.of(batch["targets"] != IGNORED) if known is None else Marked(batch["labelled_at"], known.labelled)


def predicted(batch: Mapping[str, Any]) -> int:
    """N, where predictions are marked positions."""
    known: HostCounts | None = batch.get(ENTRY)
    return int(batch["predicted"].sum()) if known is None else known.predicted


def at_predictions(values: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """What lies at the marked positions of [B, K + T, …], of which the first K are before the text: [N, …]."""
    mask: Tensor = batch["predicted"]
    behind = values.shape[1] - mask.shape[1]
    if ENTRY not in batch:
        return values[pad(mask, (behind, 0), value=False)]
    row, position = batch["predicted_at"]
    return values[row, position + behind if behind else position]
