"""A case: what a user brings, and what must be said of it, or that it is well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bad_inputs.rows import json_lines


@dataclass(frozen=True)
class Case:
    """One input of a kind (`kinds.py`).

    files       name -> bytes, beside the whole rows of the task; `train.jsonl` stands in for them
    recipe      the whole recipe's text, in place of the task's
    overrides   changes to the recipe, as on the command line
    model       what is done to a copy of the task's small model folder, which is then `model: student`
    verb        the command, and what is given to it before the recipe
    needles     what the message must hold; none: the input is well, and the command ends with 0
    status      of the refusal
    server      what a server of a teacher does wrong (tests/helpers/served_teacher.py); "" for no server
    """

    kind: str
    name: str
    task: str = "sentiment-analysis"
    needles: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    model: Callable[[Path], object] | None = None
    verb: str = "check"
    status: int = 2
    server: str = ""

    @property
    def valid(self) -> bool:
        return not self.needles

    def __str__(self) -> str:
        return f"{self.kind} {self.task}: {self.name}"


def bad(kind: str, name: str, *needles: str, task: str = "sentiment-analysis", train: bytes | None = None,
        files: Mapping[str, bytes] | None = None, overrides: tuple[str, ...] = (), **more: object) -> Case:  # fmt: skip
    """A case that is refused; `train`: the training file."""
    held = dict(files or {}) | ({} if train is None else {"train.jsonl": train})
    assert needles
    return Case(kind, name, task, needles, held, overrides=overrides, **more)  # type: ignore[arg-type]


def good(kind: str, name: str, *, task: str = "sentiment-analysis", train: bytes | list | None = None,
         files: Mapping[str, bytes] | None = None, overrides: tuple[str, ...] = (), **more: object) -> Case:  # fmt: skip
    """A case that looks like a bad one and is well."""
    data = json_lines(train) if isinstance(train, list) else train
    held = dict(files or {}) | ({} if data is None else {"train.jsonl": data})
    return Case(kind, name, task, (), held, overrides=overrides, **more)  # type: ignore[arg-type]
