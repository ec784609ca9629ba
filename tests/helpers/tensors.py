"""Random tensors that a seed decides."""

from __future__ import annotations

import torch
from torch import Tensor

from keeltune.utils import registry

NAMES = registry.names("divergences")


def normal(*shape: int, seed: int, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
