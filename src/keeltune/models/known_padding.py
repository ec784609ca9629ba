"""Tells transformers what the host knows of a batch: whether its rows are padded.

Where attention is torch's, transformers leaves a mask out that masks nothing, and looks at the mask's numbers in each
forward pass to find out, for which the host waits for its device. The answer is the same, and so is what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch

ASKED = ("sdpa", "flash_attention_2", "flash_attention_3")
"""Attention whose masks are left out where nothing is padded."""

SKIPS = ("allow_is_causal_skip", "allow_is_bidirectional_skip")
"""Whether the function that makes a mask may look for that itself."""

_known: ContextVar[Mapping[tuple[int, ...], bool]] = ContextVar("known padding", default={})  # noqa: B039  (never written)


@contextmanager
def known(padded: Mapping[tuple[int, ...], bool]) -> Iterator[None]:
    """Within: a mask [B, S] of one of these shapes masks something, or nothing."""
    _register()
    token = _known.set(padded)
    try:
        yield
    finally:
        _known.reset(token)


def _register() -> None:
    """Puts the answer before the functions that make masks, once each."""
    from transformers import masking_utils

    functions = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    for name in ASKED:
        if name in functions and not hasattr(functions[name], "__wrapped__"):
            functions[name] = _answered(functions[name])


def _answered(make: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(make)
    def made(*args: Any, **named: Any) -> Any:
        mask, said = named.get("attention_mask"), _known.get()
        # where nothing is known a shape is not looked up: one that is traced (torch.export) is no number
        padded = said.get(tuple(mask.shape)) if said and isinstance(mask, torch.Tensor) else None
        if padded is False:
            named["attention_mask"] = None
        elif padded:
            named |= {skip: False for skip in SKIPS if skip in named}
        return make(*args, **named)

    return made
