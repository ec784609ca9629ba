"""The keys of `result.json`."""

from __future__ import annotations

from typing import Any


def empty() -> dict[str, Any]:
    """`result.json` with every key and nothing in it: the shape of a run that ended early."""
    pair = {"before": None, "after": None}
    return {
        "keeltune": None,
        "task": None,
        "method": None,
        "status": None,
        "metrics": {
            "validation": None,
            "test": None,
            "source": dict(pair),
            "before": {"validation": None, "test": None},
        },
        "intervals": {"validation": None, "test": None, "source": dict(pair)},
        "scoring": None,
        "objective": None,
        "reference": None,
        "veto": None,
        "budget": None,
        "interpolation": None,
        "forgetting": None,
        "abilities": None,
        "overfitting": None,
        "calibration": None,
        "bias": None,
        "seeds": None,
        "training": None,
        "defaults": None,
        "inference": None,
        "generation": None,
        "data": None,
        "audit": None,
        "digests": None,
        "environment": None,
    }
