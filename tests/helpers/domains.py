"""The recipe of a run between two domains."""

from __future__ import annotations

from tests.helpers.runs import (
    spec_of,
)


def spec(tiny, method: str = "cross-domain", *, anchor_on: str = "target", source=("test",), **changes) -> dict:
    files = {"train": "old-train", "unlabeled": "old-texts", "validation": "old-validation", "test": "old"}
    made = spec_of(method, tiny("bert"), **changes)
    made["data"] |= {"source": {name: f"{files[name]}.jsonl" for name in source}}
    if method == "cross-domain":
        made["objective"] = {"anchor_on": anchor_on, "weight": 0.7} | made.get("objective", {})
    return made
