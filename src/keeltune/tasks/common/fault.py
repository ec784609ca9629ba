"""What is wrong with a row as a whole."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row as a whole, though each of its columns is sound."""

    field: str
    kind: str
    found: str
    expected: str
    fix: str
