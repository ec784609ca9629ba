"""Counts what makes a host wait for its device: numbers read from tensors, and sizes that depend on their values.

On a GPU each of these operations waits until all that was queued before it is done. On a CPU nothing waits, but the
operations are the same, so that they can be counted where there is no GPU.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive",
         "bincount", "is_nonzero", "nonzero_static"}  # fmt: skip
"""`item`, `tolist`, `bool`, `int` and `float` of a tensor are `_local_scalar_dense`; the size of what the others give
depends on the values."""

OTHERS = ("/torch/", "tests/helpers/device_reads.py")


WHOLE = {"tolist", "numpy", "cpu", "__array__"}
"""Reads of a whole tensor, which reach no operation where it lies on the host already."""


class _WholeTensors(TorchFunctionMode):
    def __init__(self, reads: DeviceReads):
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in WHOLE and not self.reads.on_host:
            self.reads.found[_place()] += 1
        return func(*args, **(kwargs or {}))


class DeviceReads(TorchDispatchMode):
    """Within: `found` counts the reads by the place in the code, `file.py:function`, that made them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.on_host = 0

    def __enter__(self) -> DeviceReads:
        self.whole = _WholeTensors(self)
        self.whole.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.whole.__exit__(*error)

    @contextmanager
    def host(self) -> Iterator[None]:
        """Within: what is computed lies on the host whatever trains."""
        self.on_host += 1
        try:
            yield
        finally:
            self.on_host -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        counted = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if not self.on_host and (name in READS or by_mask or counted):
            self.found[_place()] += 1
        return func(*args, **(kwargs or {}))


def _place() -> str:
    frames = [f for f in traceback.extract_stack() if not any(part in f.filename for part in OTHERS)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "torch"
