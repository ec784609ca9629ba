"""A function of the user's own as a metric: `my_package.my_module:function` in a recipe.

    def cost(predictions, references):        # or (probabilities, references), each {label: probability}
        return sum(...)                       # a number; a list of one number a row; or {name: either}

    cost.greater_is_better = False            # true where it is not said, here or in the recipe

Of a list the mean is the score, and an interval costs nothing; a number is computed anew for the rows of each draw.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from keeltune.tasks.metrics._whole import Whole
from keeltune.utils.errors import Problem, UserError, shown

ANY = "any answer"
"""What a function scores: what the task answers."""

EXPECTED = "a number, a list of one number a row, or a mapping of either by the names in `names`"


class FunctionMetric(Whole):
    """What a function makes of the answers. Statistics a row: its own scores and 1, or those of `Whole`."""

    answers = ANY
    function: ClassVar[Callable[..., Any]]
    origin: ClassVar[str]

    _by_row: bool | None = None

    @property
    def signature(self) -> str:
        return self.origin

    @property
    def width(self) -> int:
        return len(self.names) + 1 if self._by_row else super().width

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        results = self._called(values, golds) if len(golds) else dict.fromkeys(self.names, 0.0)
        by_row = [np.ndim(result) == 1 for result in results.values()]
        if any(by_row) != all(by_row) or self._by_row not in (None, all(by_row)):
            raise self._refused("lists and numbers", "return the same kind for each name, and in each call")
        if len(golds):
            self._by_row = all(by_row)
        if not self._by_row:
            return super().statistics(values, golds)
        return np.column_stack([*results.values(), np.ones(len(golds))])

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        if not self._by_row:
            return super().scores(sums)
        sums = np.asarray(sums, dtype=np.float64)
        return {name: sums[..., i] / np.maximum(sums[..., -1], 1) for i, name in enumerate(self.names)}

    def refuse_too_many(self, rows: int) -> None:
        if not self._by_row:
            super().refuse_too_many(rows)

    def whole(self, values: Sequence[Any], golds: Sequence[Any]) -> Mapping[str, float]:
        return self._called(values, golds)

    def _called(self, values: Sequence[Any], golds: Sequence[Any]) -> dict[str, Any]:
        """{name: number or [rows]}. Raises: UserError where the function does, or returns anything else."""
        try:
            result = type(self).function(list(values), list(golds))
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            found = f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
            raise self._refused(found, "correct the function") from error
        if not isinstance(result, Mapping):
            result = dict.fromkeys(self.names[:1], result) if len(self.names) == 1 else {"": result}
        if set(result) != set(self.names):
            name = type(self).function.__name__
            raise self._refused(f"the scores {shown(list(result))}", f"say their names: {name}.names = {(*result,)}")
        return {name: self._number(result[name], len(golds)) for name in self.names}

    def _number(self, result: Any, rows: int) -> Any:
        fix = "return a finite number, or a list of one for each row"
        try:
            value = np.asarray(result, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise self._refused(shown(result), fix) from error
        if value.ndim > 1 or (value.ndim == 1 and len(value) != rows):
            raise self._refused(f"numbers of shape {value.shape} for {rows} rows", fix)
        if not np.isfinite(value).all():
            raise self._refused(f"{shown(result)}, no finite number", fix)
        return float(value) if value.ndim == 0 else value

    def _refused(self, found: str, fix: str) -> UserError:
        return UserError(Problem(self.origin, "evaluation.metrics", found, EXPECTED, fix))


@cache
def of_function(name: str, function: Callable[..., Any], greater_is_better: bool | None = None) -> type[FunctionMetric]:
    """The metric of a function that a recipe names; `greater_is_better`: the recipe's word, before the function's own.

    Raises: LookupError for a function of other parameters, or whose `names` are none.
    """
    try:
        parameters = inspect.signature(function).parameters
        inspect.signature(function).bind([], [])
    except (TypeError, ValueError):
        raise LookupError(f"{name} takes no (predictions, references): a function that is a metric does") from None
    first = next(iter(parameters), "")
    said = getattr(function, "names", None) or (name.rpartition(":")[2].replace(".", "_"),)
    if isinstance(said, str) or not all(isinstance(one, str) and one for one in said):
        raise LookupError(f"{name}.names is {shown(said)}: a tuple of names is expected")
    higher = getattr(function, "greater_is_better", True) if greater_is_better is None else greater_is_better
    return type(
        "FunctionMetric",
        (FunctionMetric,),
        {
            "__doc__": FunctionMetric.__doc__,
            "names": tuple(said),
            "answers": "probabilities" if first == "probabilities" else ANY,
            "higher_is_better": bool(higher),
            "library": name,
            "function": staticmethod(function),
            "origin": name,
        },
    )
