"""Models built for their shapes alone: no number is computed, and no more modules are made than any model has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

MOST_MODULES = 50_000
"""Of one model: a mixture of 128 experts in each second of 48 layers has 8,581."""


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Inside, transformers gives no weight a value: Marian's kind would compute its positions number by number in
    Python, for the meta device too. ValueError where a configuration has a model of more than `MOST_MODULES`."""
    from transformers import PreTrainedModel

    made = count(1)

    def bounded(module: nn.Module, name: str, child: Any) -> None:
        if next(made) > MOST_MODULES:
            found = f"config.json has more than {MOST_MODULES} modules made: too many layers, blocks or experts"
            raise ValueError(f"{found} (this one is in a {type(module).__name__})")

    hook = register_module_module_registration_hook(bounded)
    initialize = PreTrainedModel.initialize_weights
    PreTrainedModel.initialize_weights = lambda model: None
    try:
        yield
    finally:
        PreTrainedModel.initialize_weights = initialize
        hook.remove()
