"""`kt.load`: a trained model in memory, which answers rows as they come.

model = kt.load("runs/tweets")
model("Lost my bag again.")                         # {"text": …, "prediction": "negative", "probabilities": {…}}
model(["On time!", "Never again."])                 # a list of them
model({"question": "…", "context": "…"})            # a row of several columns
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keeltune.data.columns import Column
from keeltune.runs.inference import answered, fitted_temperature
from keeltune.runs.opened_model import OpenedModel, open_model
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.progress import Display

WHERE = "the rows given"


def load(model: str | Path, task: str | None = None, *, calibrated: bool = False) -> LoadedModel:
    """A run's model, or a bare one with its task, ready to answer: `model`, `task`, `calibrated` as for `predict`.

    Raises: UserError with every problem of the model.
    """
    temperature = fitted_temperature(str(model)) if calibrated else None
    return LoadedModel(open_model(model, task), temperature)


class LoadedModel:
    """A model that is ready to answer, on the device that it lies on; nothing of it changes."""

    def __init__(self, opened: OpenedModel, temperature: float | None = None):
        self._opened, self._temperature = opened, temperature

    def __call__(self, given: Any, columns: Mapping[str, str] | None = None) -> Any:
        """The answer to a row, or a list with those to several, in their order.

        Args:
            given: a text, for a task that reads one column; a row as a mapping; a list of either, a frame or a
                `datasets.Dataset`. columns: our name -> that of the rows.
        Returns what was given as a mapping, with `prediction` and `probabilities`.
        Raises: UserError with every problem of the rows.
        """
        alone = isinstance(given, (str, Mapping))
        rows: Any = [given] if alone else given
        if isinstance(rows, (list, tuple)):
            rows = [self._as_row(row, columns or {}) for row in rows]
            if not rows:
                return []
        found = answered(self._opened, rows, columns, self._temperature, Display(quiet=True))
        return found[0] if alone else found

    def _as_row(self, given: Any, columns: Mapping[str, str]) -> Any:
        """A text as the row whose one column it is."""
        if not isinstance(given, str):
            return given
        name = only_column(self._opened).name
        return {columns.get(name, self._opened.mapping.get(name, name)): given}


def only_column(opened: OpenedModel) -> Column:
    """The one column that a text alone stands for: what the task needs, or of a task that reads rows in several ways
    the first of text. UserError where it needs several."""
    inputs = [column for column in opened.columns if not column.label]
    needed = [column for column in inputs if column.required] or [c for c in inputs if c.kind == "text"][:1]
    if len(needed) == 1:
        return needed[0]
    example = "{" + ", ".join(f'"{column.name}": "…"' for column in needed) + "}"
    expected = f"a row with {', '.join(column.name for column in needed)}"
    raise UserError(Problem(WHERE, "", "a text alone", expected, f"give it as {example}"))
