"""Model folders that are made once in a process: what training a tokenizer and drawing weights costs, many tests would
pay for the same small model. Each gets files of its own, which it may change."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch

_made: dict[Hashable, dict[Path, bytes]] = {}


def make(folder: Path, key: Hashable, write: Callable[[Path], Any]) -> Path:
    """`folder` with the files that `write` makes there, or made in another folder under the same `key`."""
    if key not in _made:
        write(folder)
        _made[key] = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for name, content in _made[key].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    torch.manual_seed(0)  # whatever is drawn next is drawn alike after the first and after any other
    return folder
