"""A few validation rows with the model's answers, as whoever watches a training reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from keeltune.data.dataset import Row
from keeltune.tasks.common.example import Prediction
from keeltune.tasks.task import Task

SHOWN = 6
"""Rows that are shown of an evaluation."""

LETTERS = 300
"""Letters that are shown of a text."""


def samples(task: Task, answers: Sequence[Prediction], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The first `SHOWN` rows: {"row": its line, "inputs": {column: text}, "prediction", "gold": texts, "score"}.

    The same rows at each evaluation, so that their answers can be followed. Texts are cut after `LETTERS` letters;
    pictures and recordings are named.
    """
    columns = [column.name for column in task.columns if not column.label]
    between = " " if task.answer == "tags" else " · "  # several right answers, or labels
    shown = []
    for answer, row in zip(answers[:SHOWN], rows[:SHOWN], strict=True):
        gold = task.gold(row)
        inputs = {name: row.fields.get(name) for name in columns}
        shown.append(
            {
                "row": row.line,
                "inputs": {name: _text(value, " ") for name, value in inputs.items() if value is not None},
                "prediction": _text(answer.value, between),
                "gold": _text(gold, between),
                "score": float(task.row_score(answer.value, gold)),
            }
        )
    return shown


def _text(value: Any, between: str) -> str:
    """A value of a row or an answer as one text, the parts of a list with `between` between them."""
    if isinstance(value, list):
        value = between.join(_part(part) for part in value)
    text = _part(value)
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def _part(value: Any) -> str:
    """A text as it is, a message as its role and content, all else as JSON."""
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return f"{value.get('role', '')}: {value['content']}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
