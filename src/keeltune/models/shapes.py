"""Models that are only looked at: their shapes, one skeleton for all who ask."""

from __future__ import annotations

from typing import Any

from keeltune.models.loading import skeleton

REMEMBERED = 4
"""Skeletons: a student's, and a few references'."""

_shapes: dict[tuple[str, str], Any] = {}


def shape_of(config: Any, auto_model: str, where: str = "", field: str = "model") -> Any:
    """`loading.skeleton`, which takes as long as all else of a small `check`, made once. Not to be changed."""
    key = (config.to_json_string(use_diff=False), auto_model)
    if key not in _shapes:
        made = skeleton(config, auto_model, where, field)
        while len(_shapes) >= REMEMBERED:
            del _shapes[next(iter(_shapes))]
        _shapes[key] = made
    return _shapes[key]
