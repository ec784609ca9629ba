"""How a model is held in memory: the precision of its weights, and whether an adapter's are added to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Holding:
    """How a model is held.

    dtype    of its weights, whatever the stored one
    merged   whether an adapter is added to its base's weights, or lies beside them, so that these may be another's too
    """

    dtype: torch.dtype = torch.float32
    merged: bool = True

    def arguments(self) -> dict[str, Any]:
        """What `from_pretrained` is told of it."""
        return {"dtype": self.dtype}


FLOAT32 = Holding()
