"""Numbers as targets: how many a row has, what they are called, and the unit in which a head says them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keeltune.data.dataset import Row, place
from keeltune.data.labels import LabelChoice
from keeltune.recipe.fields import Recipe
from keeltune.utils.errors import Problem, shown
from keeltune.utils.names import plain_name

COLUMN = "target"


def numbers_of(value: float | Sequence[float]) -> list[float]:
    """The numbers of a row, of which it has one or several."""
    return [float(value)] if isinstance(value, int | float) else [float(number) for number in value]


def unit_of(config: Any, count: int) -> tuple[list[float], list[float]]:
    """(means, deviations) by which a head's outputs z stand for numbers y = mean + deviation · z; 0 and 1 of a model
    whose configuration says none."""
    mean, deviation = (getattr(config, name, None) for name in ("target_mean", "target_std"))
    if mean is None or deviation is None or len(mean) != count or len(deviation) != count:
        return [0.0] * count, [1.0] * count
    return [float(m) for m in mean], [float(d) for d in deviation]


def decide_targets(recipe: Recipe, rows: Mapping[str, Sequence[Row]], config: Any) -> LabelChoice:
    """The numbers of a run, by name, and the unit of the model's head, which is noted in `config`.

    A head that was trained for as many numbers keeps its unit: `target_mean` and `target_std` of its configuration, or
    the rows' own (0 and 1) where it was trained elsewhere. A new head gets the training rows' mean and deviation.
    """
    labelled = rows["train"] or [*rows["validation"], *rows["test"], *rows["source"]]
    counts = Counter(len(numbers_of(row.fields[COLUMN])) for row in labelled)
    trained = _trained_for(config)
    if not counts:
        return LabelChoice(_names(None, trained), _names(None, trained))
    count = counts.most_common(1)[0][0]
    listed = recipe.data.labels
    if listed is not None and (isinstance(listed, Mapping) or len(listed) != count):
        found, expected = f"{len(listed)} names", f"a list of {count}: a name for each number of a row"
        problem = Problem(recipe.where("data.labels"), "data.labels", found, expected, "correct it, or leave it out")
        return LabelChoice([], None, [problem])
    names = _names(listed, count)
    if trained == count:
        return LabelChoice(names, names)
    table = np.array([numbers_of(r.fields[COLUMN]) for r in labelled if len(numbers_of(r.fields[COLUMN])) == count])
    mean, deviation = table.mean(0), table.std(0)
    if not (deviation > 1e-12 * np.maximum(1.0, abs(mean))).all():
        name = names[int(deviation.argmin())]
        found = f"{name} is {shown(float(mean[deviation.argmin()]))} in every row"
        fix = "add rows, or leave the number out"
        return LabelChoice(names, None, [Problem(place(labelled, 0).file, COLUMN, found, "numbers that differ", fix)])
    if config is not None:
        config.target_mean, config.target_std = mean.tolist(), deviation.tolist()
    notice = ", ".join(f"{n}: mean {m:.4g}, deviation {d:.4g}" for n, m, d in zip(names, mean, deviation, strict=True))
    return LabelChoice(names, None, notices=[f"targets are standardised by the training rows ({notice})"])


def _trained_for(config: Any) -> int:
    """How many numbers a head was trained for; 0 where it is none of numbers. One output is always a number."""
    count = getattr(config, "num_labels", 0) or 0
    is_head = getattr(config, "target_mean", None) is not None or getattr(config, "problem_type", "") == "regression"
    return count if is_head or count == 1 else 0


def _names(listed: Sequence[Any] | None, count: int) -> list[str]:
    if listed is not None:
        return [plain_name(str(name)) for name in listed]
    return [COLUMN] if count == 1 else [f"{COLUMN} {number}" for number in range(count)]
