"""What an answer is worth: one metric (a family of names that share statistics) a file; `metric.py` is the contract."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

from keeltune.tasks.metrics.metric import Metric
from keeltune.utils import registry


def known() -> Iterator[type[Metric]]:
    """Every metric of the shelf, then those of other packages that are loaded."""
    shelf = _shelf()
    yield from shelf
    yield from (metric for metric in _derived(Metric) if metric not in shelf and metric.names)


@cache
def _shelf() -> tuple[type[Metric], ...]:
    return tuple(registry.find("metrics", name) for name in registry.names("metrics"))


def _derived(base: Any) -> Iterator[type[Metric]]:
    for metric in base.__subclasses__():
        if not inspect.isabstract(metric):  # what several share
            yield metric
        yield from _derived(metric)


def metric_named(name: str) -> type[Metric] | None:
    """The metric that has a score of this name; of two with one name the first: they share direction and scale."""
    return next((metric for metric in known() if name in metric.names), None)


def scale_of(name: str) -> float | None:
    """A perfect score (of an error rate: the whole error); None of a metric without bound, such as the loss."""
    metric = metric_named(name)
    return 1.0 if metric is None else metric.scale


def higher_is_better(name: str) -> bool:
    """Whether the larger of two scores of this name is the better one."""
    metric = metric_named(name)
    return True if metric is None else metric.higher_is_better
