"""How a model is held in memory: the precision and bits of its weights, and whether an adapter's are added to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from keeltune.models.four_bit import quantization
from keeltune.utils.device import this_device


@dataclass(frozen=True)
class Holding:
    """How a model is held.

    dtype    of its weights, whatever the stored one
    merged   whether an adapter is added to its base's weights, or lies beside them, so that these may be another's too
    four_bit   whether the linear layers of the base model are quantised; all else is in `dtype`
    """

    dtype: torch.dtype = torch.float32
    merged: bool = True
    four_bit: bool = False

    def arguments(self, skeleton: Callable[[], Any]) -> dict[str, Any]:
        """What `from_pretrained` is told of it, for the model that `skeleton` makes without weights."""
        if not self.four_bit:
            return {"dtype": self.dtype}
        return {
            "dtype": self.dtype,
            "quantization_config": quantization(skeleton()),
            "device_map": {"": this_device()},  # weights are quantised where they will be
        }


FLOAT32 = Holding()
