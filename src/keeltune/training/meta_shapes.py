"""What torch's operations give on the `meta` device, remembered: layers are alike, and so are their operations.

On that device torch works most shapes out in Python, a tenth of a millisecond and more for each operation, which is
what a rehearsal of a step consists of. A result is remembered where it says nothing but shapes: of an operation that
changes nothing and gives no view, asked of tensors on `meta` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

MOST = 20_000
"""Operations that are remembered; some 300 different ones make a step of a model."""

Shape = tuple[torch.Size, tuple[int, ...], torch.dtype]

_known: dict[tuple[Any, ...], tuple[type, list[Shape]]] = {}


def shapes_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`func(*args, **kwargs)`; on `meta` new tensors of the shapes, strides and types that it gave before."""
    key = _key(func, args, kwargs)
    if key is None:
        return func(*args, **kwargs)
    if key in _known:
        kind, shapes = _known[key]
        made = [torch.empty_strided(size, stride, dtype=dtype, device="meta") for size, stride, dtype in shapes]
        return made[0] if kind is Tensor else kind(made)
    result = func(*args, **kwargs)
    if (found := _shapes(result, args)) is not None:
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = found
    return result


@cache
def _is_pure(func: Any) -> bool:
    """Whether an operation changes nothing that it is given, and gives nothing of it back."""
    return all(value.alias_info is None for value in (*func._schema.arguments, *func._schema.returns))


def _key(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What the shapes of a result depend on; None where that may be more than is seen here."""
    if not _is_pure(func):
        return None
    parts: list[Any] = [func, torch.get_default_dtype(), len(args)]
    met = [*args, *(pair for item in sorted(kwargs.items()) for pair in item)]
    tensors = False
    while met:
        value = met.pop()
        if isinstance(value, Tensor):
            strided = value.layout is torch.strided and type(value) in (Tensor, torch.nn.Parameter)
            if value.device.type != "meta" or not strided:
                return None
            tensors = True
            parts.append((value.shape, value.stride(), value.dtype))
        elif isinstance(value, list | tuple):
            parts.append(len(value))
            met += value
        elif value is None or isinstance(
            value, int | float | str | torch.dtype | torch.device | torch.layout | torch.memory_format
        ):
            parts.append((type(value), value))
        else:
            return None
    return tuple(parts) if tensors else None


def _shapes(result: Any, args: Sequence[Any]) -> tuple[type, list[Shape]] | None:
    """The tensors of a result, where each is whole and its own."""
    kind = Tensor if isinstance(result, Tensor) else type(result)
    tensors = [result] if kind is Tensor else result
    if kind not in (Tensor, tuple, list) or not all(type(t) is Tensor and t.device.type == "meta" for t in tensors):
        return None
    shapes = [(t.shape, t.stride(), t.dtype) for t in tensors]
    alone = [torch.empty_strided(size, stride, dtype=dtype, device="meta") for size, stride, dtype in shapes]
    sizes = [t.untyped_storage().nbytes() for t in tensors]
    own = {t.untyped_storage()._cdata for t in tensors} - {
        t.untyped_storage()._cdata for t in args if isinstance(t, Tensor)
    }
    if len(own) < len(shapes) or sizes != [t.untyped_storage().nbytes() for t in alone]:
        return None
    return kind, shapes
