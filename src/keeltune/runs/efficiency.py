"""Size and speed of runs beside their scores: which model is neither smaller nor better than another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SIZES = ("parameters", "trained_parameters", "training_rows_per_second", "inference_rows_per_second")
"""What a run's model costs; null where its result does not say it."""


def sizes(result: Mapping[str, Any]) -> dict[str, float | None]:
    """`SIZES` of a `result.json`. Speeds are rows a second: in training without evaluations and saving, in inference
    of the final scoring, float32, in batches."""
    training, inference = result["training"], result["inference"]
    return {
        "parameters": training.get("parameters"),
        "trained_parameters": training.get("trained_parameters"),
        "training_rows_per_second": training.get("examples_per_second"),
        "inference_rows_per_second": inference["rows"] / inference["seconds"]
        if inference and inference["seconds"] > 0
        else None,
    }


def trade_off(lines: Sequence[dict[str, Any]], sign: float) -> dict[str, Any] | None:
    """What a smaller model costs: {"by", "dominated": {name: the name of one that dominates it}}; None where all models
    are of one size, or a size is not known.

    `by`: "parameters" where they differ, else "inference_rows_per_second" where a run has a teacher (a student of
    the same size may still be quicker). A run is dominated where another one's size (or speed) and target score are at
    least as good, and one of them is better; `sign`: −1 where a smaller score is better.
    """
    by, cost = "parameters", 1.0
    if len({line["parameters"] for line in lines}) < 2:
        by, cost = "inference_rows_per_second", -1.0
        if len(lines) < 2 or not any(line["teacher"] for line in lines):
            return None
    if any(line[by] is None for line in lines):
        return None
    points = [(cost * line[by], -sign * line["target"]["value"]) for line in lines]
    dominated = {}
    for line, point in zip(lines, points, strict=True):
        better = [
            (other, lines[i]["name"])
            for i, other in enumerate(points)
            if other != point and other[0] <= point[0] and other[1] <= point[1]
        ]
        if better:
            dominated[line["name"]] = min(better)[1]
    return {"by": by, "dominated": dominated}
