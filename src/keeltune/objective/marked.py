"""Some of N predictions, of which the host knows how many there are in each slice.

A mask [N] on a device says where they are, but how many are in a slice only when its numbers are read, for which the
host waits until all that was queued before is computed. A micro-batch is made on the host: it is counted there, once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor


class Marked:
    """Args: `places` [n], those of the marked among N predictions, ascending, on the device of what is picked; `before`
    [N + 1], how many of them lie before each prediction, and the last how many there are."""

    def __init__(self, places: Tensor, before: Sequence[int] | np.ndarray):
        self.places, self.before = places, before

    @classmethod
    def of(cls, mask: Tensor) -> Marked:
        """Of a mask [N] bool, whose numbers are read."""
        return cls(mask.nonzero().flatten(), counted(mask))

    def __len__(self) -> int:
        return int(self.before[-1])

    def within(self, part: slice) -> slice:
        """Those in a slice of the predictions, as a slice of the marked."""
        return slice(int(self.before[part.start]), int(self.before[part.stop]))

    def pick(self, values: Tensor, part: slice) -> Tensor:
        """Of `values` [m, …] of a slice's m predictions those of the marked ones: [k, …], all as they are if k = m."""
        inside = self.within(part)
        if inside.stop - inside.start == len(values):
            return values
        return values[self.places[inside] - part.start]


def counted(mask: Tensor) -> np.ndarray:
    """How many of a mask [N] bool lie before each prediction, and in all: [N + 1], on the host."""
    return np.concatenate([[0], mask.cpu().numpy().cumsum()])
