"""The 95 % interval of a score, of one run or of the mean over several seeds.

    a share of rows (accuracy, exact match: 0 or 1 a row)     Clopper and Pearson
    a score at its end that no draw leaves (wer 0, F1 1)      the same, of the share of rows that are perfect, or lost
    any other score                                           the middle 95 % of the bootstrap's draws

Whether a score is a share is seen from the rows' own scores, so that this holds for metrics of other packages too.
Differences between two models are bootstrapped in pairs, where the two mostly move together (`scores.differences`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from keeltune.evaluation import bootstrap
from keeltune.evaluation.bootstrap import share_interval
from keeltune.tasks.metrics import scale_of
from keeltune.tasks.metrics.loss import Loss
from keeltune.tasks.task import Task

EXACT = 1e-9
"""How far a share may lie from the mean of the rows' zeros and ones, and an end from itself."""


def interval(
    draws: np.ndarray, rows: Sequence[np.ndarray], whole: Sequence[float], units: int, scale: float | None
) -> tuple[float, float]:
    """The interval of a metric's mean over S seeds (mostly one) on the same rows.

    Args:
        draws: the mean over the seeds, on each draw of the bootstrap [resamples].
        rows: [S] of each row's score alone [rows]. whole: [S] of the score of all rows.
        units: how many are drawn: rows, or clusters of them. scale: a perfect score (`scale_of`).
    """
    low, high = bootstrap.interval(np.asarray(whole) if np.isnan(draws).all() else draws)
    if scale is None:
        return low, high
    value = float(np.mean(whole)) / scale
    at_end = low == high and min(abs(value), abs(1 - value)) < EXACT
    if all(_is_share(alone / scale, score / scale) for alone, score in zip(rows, whole, strict=True)):
        count = len(rows[0])
        one_by_one = len(rows) == 1 and units == count
        effective = count if one_by_one else bootstrap.effective_rows(draws / scale, value, count)
        low, high = share_interval(value, min(effective, units) if at_end else effective)
    elif at_end:
        low, high = share_interval(round(value), units)
    else:
        return low, high
    return low * scale, high * scale


def intervals(
    task: Task, tables: Sequence[np.ndarray], draws: Mapping[str, np.ndarray], units: int
) -> dict[str, tuple[float, float]]:
    """`interval` of each metric of `draws`; `tables` [S] of [rows, K + 2] are the seeds' `Scores.table`s."""
    alone = [metrics_of(task, table) for table in tables]
    whole = [metrics_of(task, table.sum(0)) for table in tables]
    return {
        name: interval(
            of_name, [seed[name] for seed in alone], [float(seed[name]) for seed in whole], units, scale_of(name)
        )
        for name, of_name in draws.items()
    }


def _is_share(rows: np.ndarray, whole: float) -> bool:
    """Whether rows [rows] are right or wrong, and the whole is the share of the right ones."""
    return bool(np.isin(rows, (0.0, 1.0)).all()) and abs(float(rows.mean()) - whole) < EXACT


def metrics_of(task: Task, sums: np.ndarray) -> dict[str, np.ndarray]:
    """The task's metrics in its order, and the loss; from summed statistics, losses and counts [..., K + 2].

    No loss where there is no labelled prediction at all.
    """
    values = Loss().scores(sums[..., -2:]) if np.any(sums[..., -1]) else {}
    if sums.shape[-1] > 2:
        values = task.scores(sums[..., :-2]) | values
    return {name: values[name] for name in dict.fromkeys([*task.metrics, "loss"]) if name in values}
