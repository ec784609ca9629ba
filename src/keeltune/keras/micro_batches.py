"""An optimizer step's rows, cut into micro-batches, and how many predictions of them each term counts.

Shapes: B rows of a step; a prediction is one of a row, [B], or one of each position, [B, T]; C choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops, tree

from keeltune.keras.formula import Counts
from keeltune.keras.predictions import IGNORED, Coarse

Tensor = Any

NAMES = {"targets", "anchored", "reference"}
"""What a mapping in the place of `y` may hold; the first alone is required."""


@dataclass(frozen=True)
class MicroBatch:
    """Some rows: the model's inputs, and of each of its outputs what the terms are made of.

    x           what the model is called with
    targets     [...] whole numbers for each output, IGNORED where there is no label
    weights     [...] for each output, or None: of a prediction's CE; one of weight 0 is no prediction
    anchored    [...] bool for each output, or None: the predictions that carry D; None: the labelled ones
    reference   logits or Coarse for each output, or None where the reference is to be asked
    """

    x: Any
    targets: list[Tensor]
    weights: list[Tensor] | None = None
    anchored: list[Tensor] | None = None
    reference: list[Tensor | Coarse] | None = None

    def labelled(self, output: int, mask: Tensor | None) -> Tensor:
        """Which predictions have a label, as 1.0 and 0.0 or their weights: [...] float32."""
        return ops.where(self._is_labelled(output, mask), self._weight(output), 0.0)

    def carrying(self, output: int, mask: Tensor | None) -> Tensor:
        """Which predictions carry D, [...] bool."""
        if self.anchored is None:
            return self._is_labelled(output, mask)
        return ops.logical_and(ops.cast(self.anchored[output], "bool"), self._is_there(output, mask))

    def counts(self, masks: Sequence[Tensor | None]) -> Counts:
        """n_CE and n_D of these rows, `masks` being those of the outputs."""
        labelled = [ops.sum(self.labelled(i, mask)) for i, mask in enumerate(masks)]
        carrying = [ops.sum(ops.cast(self.carrying(i, mask), "float32")) for i, mask in enumerate(masks)]
        return Counts(sum(labelled[1:], labelled[0]), sum(carrying[1:], carrying[0]))

    def _weight(self, output: int) -> Tensor:
        like = ops.ones_like(self.targets[output], dtype="float32")
        if self.weights is None:
            return like
        weight = ops.cast(self.weights[output], "float32")
        return like * ops.reshape(weight, (*ops.shape(weight), *[1] * (len(like.shape) - len(weight.shape))))

    def _is_there(self, output: int, mask: Tensor | None) -> Tensor:
        there = self._weight(output) != 0.0
        return there if mask is None else ops.logical_and(there, ops.cast(mask, "bool"))

    def _is_labelled(self, output: int, mask: Tensor | None) -> Tensor:
        return ops.logical_and(ops.cast(self.targets[output], "int32") != IGNORED, self._is_there(output, mask))


def whole_step(x: Any, y: Any, sample_weight: Any, temperature: float) -> MicroBatch:
    """A step's rows as one micro-batch, of what `fit` was given."""
    given = y if isinstance(y, dict) and "targets" in y and set(y) <= NAMES else {"targets": y}
    if given["targets"] is None:
        raise ValueError(f"found no y, expected targets ({IGNORED} where a prediction has no label)")
    targets = tree.flatten(given["targets"])
    weights = None if sample_weight is None else tree.flatten(sample_weight)
    if weights is not None and len(weights) == 1:
        weights = weights * len(targets)
    anchored = tree.flatten(given["anchored"]) if "anchored" in given else None
    stored = given.get("reference")
    reference: list[Tensor | Coarse] | None = None
    if stored is not None:
        coarse = isinstance(stored, dict) and set(stored) == {"ids", "log_probs"}
        reference = [Coarse(**stored, temperature=temperature)] if coarse else tree.flatten(stored)
    return MicroBatch(x, targets, weights, anchored, reference)


def cut(whole: MicroBatch, parts: int) -> Iterator[MicroBatch]:
    """The rows of a step in consecutive micro-batches, whose sizes differ by at most one row."""
    if parts == 1:
        yield whole
        return
    rows = ops.shape(whole.targets[0])[0]
    for part in range(parts):
        start, stop = rows * part // parts, rows * (part + 1) // parts

        def taken(tensors: Any, start: Any = start, stop: Any = stop) -> Any:
            return tree.map_structure(lambda x: x[start:stop], tensors)

        reference = whole.reference
        if reference is not None:
            reference = [Coarse(taken(r.ids), taken(r.log_probs), r.temperature) if isinstance(r, Coarse) else taken(r)
                         for r in reference]  # fmt: skip
        yield MicroBatch(
            taken(whole.x),
            taken(whole.targets),
            None if whole.weights is None else taken(whole.weights),
            None if whole.anchored is None else taken(whole.anchored),
            reference,
        )
