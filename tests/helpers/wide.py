"""Cells of a product that others stand for: `make test` leaves them out, `make test-wide` runs them."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def all_but(cases: Iterable[Any], kept: Container[Any]) -> list[Any]:
    """The cases as parameters, all but those in `kept` marked `wide`."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if case in kept else pytest.mark.wide)
        for case in cases
    ]
