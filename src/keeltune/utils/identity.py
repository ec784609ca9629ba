"""What a stored thing was made of, compared with what is wanted: one that differs is refused, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keeltune.utils.digests import canonical
from keeltune.utils.errors import Problem, StateRefused


def refuse_other(
    folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any], fix: str, *, holder: str = "the cache"
) -> None:
    """Raises StateRefused with each field in which a cache (or another `holder`) is not as wanted; both values."""
    problems = [
        Problem(str(folder), name, f"{_short(then)} in {holder}", f"{_short(now)}, as this recipe has it", fix)
        for name, then, now in differences(stored, wanted)
    ]
    if problems:
        raise StateRefused(problems)


def differences(then: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted fields in which two nested mappings differ, with both values."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return [d for key in {**then, **now}
                for d in differences(then.get(key), now.get(key), f"{name}.{key}" if name else str(key))]  # fmt: skip
    return [(name, then, now)] if then != now else []


def _short(value: Any, width: int = 80) -> str:
    text = "nothing" if value is None else canonical(value)
    return text if len(text) <= width else text[: width - 1] + "…"
