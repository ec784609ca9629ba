"""A reference's answers from a cache of `keeltune cache`, read from its files without torch.

Rows are known by their keys (`keeltune.data.dataset.row_key`), in any order. An answer comes with its row, as data.
Shapes: B rows, T positions, C choices, k kept ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keeltune.keras.formula import Objective
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.tensor_store import Location, Store

FORMS = ("full", "top-k")
"""The forms that are read here; `hidden` needs the vocabulary head beside it."""


class Cached:
    """A finished cache. Each shard is held against its digest before its first number is read.

    Raises StateRefused where the cache is not what was written, UserError where its form cannot be read here.
    """

    def __init__(self, folder: str | Path):
        fix = f"make it again with `keeltune cache`, or give another folder than {folder}"
        self.store = Store(Path(folder), fix, framework="np")
        manifest = self.store.manifest
        self.form: dict[str, Any] = manifest["form"]
        found = expected = ""
        if self.form["name"] not in FORMS:
            found, expected = self.form["name"], f"one of {', '.join(FORMS)}"
        elif self.form["dtype"] == "bfloat16":  # numpy has no such numbers
            found, expected = "bfloat16", "float32 or float16"
        elif manifest["identity"].get("shared") is not None:
            found, expected = "answers on a part of the student's choices", "the student's own choices"
        elif manifest["choices"] < 2:
            found, expected = "numbers", "choices"
        if found:
            problem = Problem(str(folder), "form", found, expected, "make it anew with reference.form: full")
            raise UserError(problem)

    def require(self, objective: Objective) -> None:
        """Raises ValueError where the objective cannot compare with these answers."""
        if self.form["name"] != "top-k":
            return
        if objective.divergence == "logit-mse":
            raise ValueError("found logit-mse on the k likeliest choices, expected another divergence: the tail has no "
                             "logit")  # fmt: skip
        if objective.temperature != self.form["temperature"]:
            raise ValueError(f"found temperature {objective.temperature}, expected {self.form['temperature']}, at "
                             "which the k likeliest choices were kept")  # fmt: skip

    def answers(self, keys: Sequence[str], predicted: np.ndarray | None = None) -> Any:
        """The reference's answers to rows: log-probabilities [B, C], or {"ids": [B, k], "log_probs": [B, k + 1]}.

        `predicted` [B, T] bool: at which positions of a row it predicts; the answers are then [B, T, …], and of the
        other positions uniform. Raises KeyError for a row that is not there.
        """
        counts = [1] * len(keys) if predicted is None else predicted.sum(-1).tolist()
        where = [self._location(key, count) for key, count in zip(keys, counts, strict=True)]
        if len({location.width for location in where}) > 1:
            raise ValueError("found rows with different numbers of choices, expected the same in all")
        if self.form["name"] == "full":
            return _spread(np.concatenate([self._table(location) for location in where]), predicted, 0.0)
        kept = [self._columns(location, ("log_probs", "ids", "tail")) for location in where]
        log_probs, ids, tail = (np.concatenate(column) for column in zip(*kept, strict=True))
        outcomes = np.concatenate([log_probs.astype(np.float32), tail.astype(np.float32)[:, None]], axis=-1)
        outcomes -= np.logaddexp.reduce(outcomes, axis=-1, keepdims=True)  # takes the rounding of what is stored back
        others = np.arange(ids.shape[-1], dtype=np.int32)
        return {"ids": _spread(ids.astype(np.int32), predicted, others),
                "log_probs": _spread(outcomes, predicted, -np.log(np.float32(outcomes.shape[-1])))}  # fmt: skip

    def with_targets(self, targets: Any, keys: Sequence[str], predicted: np.ndarray | None = None) -> dict[str, Any]:
        """What `fit` takes for `y`: targets [B] or [B, T], and beside them the reference's answers to the same rows."""
        return {"targets": np.asarray(targets), "reference": self.answers(keys, predicted)}

    def _location(self, key: str, count: int) -> Location:
        location = self.store.location(key)
        if location is None:
            raise KeyError(f"found no answer to the row {key} in {self.store.folder}, expected one")
        if location.count != count:
            raise ValueError(f"found {location.count} predictions of the row {key} in the cache, expected {count}")
        return location

    def _table(self, location: Location) -> np.ndarray:
        numbers = self.store.read(location.shard, "log_probs", location.number, location.count * location.width)
        return np.asarray(numbers, dtype=np.float32).reshape(location.count, location.width)

    def _columns(self, location: Location, names: Sequence[str]) -> list[np.ndarray]:
        return [self.store.read(location.shard, name, location.prediction, location.count) for name in names]


def _spread(table: np.ndarray, predicted: np.ndarray | None, other: Any) -> np.ndarray:
    """A table of predictions [N, …] at the positions where they are made, [B, T, …]; `other` stands elsewhere."""
    if predicted is None:
        return table
    whole = np.empty((*predicted.shape, *table.shape[1:]), table.dtype)
    whole[...] = other
    whole[predicted] = table
    return whole
