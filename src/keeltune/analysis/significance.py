"""Whether a difference is more than chance."""

from __future__ import annotations

from scipy.stats import binomtest


def mcnemar(lost: int, won: int) -> float:
    """McNemar's exact test: of the rows that changed sides, how likely is it that one side is as much commoner?"""
    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
