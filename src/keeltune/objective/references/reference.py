"""The contract of a reference: the same N predictions as the student's, from somewhere else, without a gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from keeltune.objective.predictions import Rows

Batch: TypeAlias = Mapping[str, Any]
"""A collated batch: `inputs` (what a model is called with), `targets` [N], `anchored` [N], `keys`."""

ToRows: TypeAlias = Callable[[Any, Batch], Rows]
"""A task's `rows(outputs, batch)`: a model's outputs as predictions."""

Forward: TypeAlias = Callable[[Any, Batch], Any]
"""A task's `forward(model, batch)`: how a batch is put to a model."""

Autocast: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which a model runs, so that a reference runs in the student's precision."""


class Reference(ABC):
    """R(·|x), frozen. `rows(batch)` is in eval mode, without a gradient, and gives the same answer twice.

    It leaves the training mode of every module and the random state as they were.
    """

    kind: str
    """The name under which `result.json` reports it."""

    @abstractmethod
    def rows(self, batch: Batch) -> Rows:
        """The reference's N predictions for `batch`, [N, C] when read."""


def call(model: Any, batch: Batch) -> Any:
    """The plainest `Forward`."""
    return model(**batch["inputs"])
