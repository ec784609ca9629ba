"""What the harness's tasks say of a model before and after training, with intervals that are drawn in pairs.

A metric is known by its numbers: where the sums of the documents' values give the harness's own number, as a mean, a
perplexity or bits a byte, the bootstrap is that of every other ability. Else the harness's own function is asked for
each of a few draws.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from keeltune.evaluation import bootstrap, forgetting, harness
from keeltune.evaluation.forgetting import Line
from keeltune.evaluation.harness import HarnessScores
from keeltune.evaluation.seed_bootstrap import over_seeds
from keeltune.training.preparation.harness_tasks import HarnessTask

DRAWS = 100
"""Draws of a metric that is no sum (F1, BLEU), each a call of the harness's function; its own error has as many."""

Form = Callable[[np.ndarray], np.ndarray]
"""From summed statistics [..., 2] to scores [...]."""

FORMS: tuple[tuple[Form, bool], ...] = (
    (lambda sums: sums[..., 0] / sums[..., 1], False),
    (lambda sums: np.exp(-sums[..., 0] / sums[..., 1]), True),
    (lambda sums: -sums[..., 0] / sums[..., 1] / math.log(2), True),
)
"""Mean, perplexity, bits a byte; and whether a document's value may be a pair (Σ log P, its words or bytes)."""


def change(each: HarnessTask, before: HarnessScores, after: HarnessScores) -> dict[str, Any] | None:
    """A task as `forgetting.change` says it of a split, and `harness`: the versions and settings that it was asked in.

    None where the harness gives no finite number of it. Rows are lost and won by the primary metric, where it says of
    each how good it is.
    """
    names = [name for name in after.metrics if name in before.metrics]
    if not names:
        return None
    metrics = {
        name: {
            "before": before.metrics[name],
            "after": after.metrics[name],
            "change": after.metrics[name] - before.metrics[name],
            "interval": _interval(each, name, before, after),
        }
        for name in names
    }
    return {
        "task": harness.NAME,
        "split": f"abilities/{harness.file_name(each.name)}",
        "language": None,
        "harness": _settings(each),
        "rows": len(after.lines),
        "clusters": None,
        "metric": names[0],
        "metrics": metrics,
        "retention": _retention(each, names[0], metrics[names[0]]),
        "by_label": None,
        "slices": {},
        **_rows(each, names[0], before, after),
    }


def _settings(each: HarnessTask) -> dict[str, Any]:
    """What a number of the harness's is not comparable without."""
    own = each.task.VERSION
    return {
        "lm_eval": version("lm_eval"),
        "version": own if isinstance(own, int | float | str) and own != "Yaml" else None,  # what it calls none
        "num_fewshot": each.task.get_config("num_fewshot"),
    }


def _higher_is_better(each: HarnessTask, metric: str) -> bool:
    return each.task.higher_is_better().get(metric.partition(",")[0]) is True


def _retention(each: HarnessTask, metric: str, ends: Mapping[str, Any]) -> float | None:
    """What is left of a score; None of a loss, and where there was nothing to lose."""
    known = _higher_is_better(each, metric) and ends["before"] > 0 and ends["after"] >= 0
    return ends["after"] / ends["before"] if known else None


def _rows(each: HarnessTask, metric: str, before: HarnessScores, after: HarnessScores) -> dict[str, Any]:
    """`mcnemar`, `lost` and `won` of documents that are graded from 0 to 1; else null."""
    pairs = list(zip(before.lines, after.lines, strict=True))
    grades = [line["score"] for pair in pairs for line in pair]
    if not _higher_is_better(each, metric) or not all(isinstance(g, float) and 0 <= g <= 1 for g in grades):
        return {"mcnemar": None, "lost": None, "won": None}
    lost = [forgetting.lost_row(old, new) for old, new in pairs if forgetting.fell(old["score"], new["score"])]
    won = sum(forgetting.fell(new["score"], old["score"]) for old, new in pairs)
    lines = (before.lines, after.lines)
    return {"mcnemar": forgetting.mcnemar_of(lines, len(lost), won), "lost": lost, "won": won}


def _interval(each: HarnessTask, metric: str, before: HarnessScores, after: HarnessScores) -> list[float] | None:
    """The 95 % interval of a metric's change, the same documents drawn for both; None where it cannot be drawn."""
    old, new = before.values[metric], after.values[metric]
    if len(old) != len(new):
        return None
    drawn = _drawn([(old, before.metrics[metric]), (new, after.metrics[metric])])
    if drawn is None:
        number_of = harness.aggregation(each, metric)
        if number_of is None:
            return None
        chosen = np.random.default_rng(0).integers(len(old), size=(DRAWS, len(old)))
        drawn = [
            np.array([number_of([values[i] for i in rows]) for rows in chosen], dtype=float) for values in (old, new)
        ]
    differences = drawn[1] - drawn[0]
    return list(bootstrap.interval(differences)) if np.isfinite(differences).all() else None


def _drawn(measured: Sequence[tuple[Sequence[Any], float]]) -> list[np.ndarray] | None:
    """Each (documents' values, the harness's number) on each draw of the documents, [resamples]; None where the number
    is not one of `FORMS` for all of them."""
    tables: list[np.ndarray | None] = [_table(values) for values, _ in measured]
    for form, paired in FORMS:
        fits = all(
            table is not None
            and (paired or not isinstance(values[0], list))
            and math.isclose(float(form(table.sum(0))), number, rel_tol=1e-9, abs_tol=1e-12)
            for table, (values, number) in zip(tables, measured, strict=True)
        )
        if fits:
            return [form(bootstrap.bootstrap(table)) for table in tables if table is not None]
    return None


def _table(values: Sequence[Any]) -> np.ndarray | None:
    """[documents, 2]: a number and 1, or a pair; None of other values, or none."""
    pairs = [value if isinstance(value, list) else [value, 1.0] for value in values]
    if not pairs or not all(len(pair) == 2 and all(isinstance(part, float) for part in pair) for pair in pairs):
        return None
    table: np.ndarray = np.array(pairs)
    return table if table[:, 1].sum() > 0 else None


def pooled(
    changes: Sequence[Mapping[str, Any]], before: Sequence[Sequence[Line]], after: Sequence[Sequence[Line]]
) -> dict[str, Any]:
    """A task's changes over several seeds, `before` and `after` the lines of each one's prediction files: means, with
    intervals over documents and seeds; null of a metric whose documents' values do not add up to it."""
    first = changes[0]
    metrics: dict[str, Any] = {}
    for name in first["metrics"]:
        ends = [change["metrics"][name] for change in changes]
        means = {key: statistics.fmean(end[key] for end in ends) for key in ("before", "after", "change")}
        measured = [
            ([line["values"].get(name) for line in lines], end[key])
            for key, of_seeds in (("before", before), ("after", after))
            for lines, end in zip(of_seeds, ends, strict=True)
        ]
        drawn = _drawn(measured)
        interval = None
        if drawn is not None:
            seeds = len(changes)
            differences = [new - old for old, new in zip(drawn[:seeds], drawn[seeds:], strict=True)]
            interval = list(bootstrap.interval(over_seeds(differences)))
        metrics[name] = means | {"interval": interval}
    retentions = [change["retention"] for change in changes]
    mean = statistics.fmean(retentions) if all(value is not None for value in retentions) else None
    return {**first, "metrics": metrics, "retention": mean, "mcnemar": None, "lost": None, "won": None}
