"""What went wrong, said so that it can be fixed: where, what was found, what was expected, how to fix it.

Every fault of the recipe, the data or the call is a `Problem`. Checks collect them and raise one `UserError` that
holds them all, so that a user fixes everything in one go. The command prints them and exits with `exit_status`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from keeltune.utils.messages import Message
from keeltune.utils.sanitization import HIDDEN, is_secret, shown_text

LISTED = 10
"""How many problems of one kind are printed; the rest are counted."""

LONGEST = 2000
"""Characters of a value that are looked at for a message: more than it shows, so that no cut secret is left."""


@dataclass(frozen=True)
class Problem:
    """One fault. `where` is `file:line`, `file:line:column` or a file; `field` the recipe's or row's field.

    `kind` groups the same fault over many rows ("unknown label"), so that ten are printed and the rest counted.
    Each part is one line that may be shown: what is invisible in it is spelt out, and it holds no secret.
    """

    where: str
    field: str
    found: str
    expected: str
    fix: str
    kind: str = ""
    severity: Literal["error", "warning"] = "error"

    def __post_init__(self) -> None:
        for part in ("where", "field", "found", "expected", "fix", "kind"):
            text = getattr(self, part)
            clean = text.changed(shown_text) if isinstance(text, Message) else shown_text(text)
            if clean != text:
                object.__setattr__(self, part, clean)
        named = self.field.rpartition(".")[2]
        if is_secret(named) and named not in self.found and self.found != "nothing":
            object.__setattr__(self, "found", f"a value that is not shown ({HIDDEN})")

    def __str__(self) -> str:
        head = " · ".join(part for part in (self.where, self.field) if part)
        return f"{head}\n    found:    {self.found}\n    expected: {self.expected}\n    fix:      {self.fix}"


class KeeltuneError(Exception):
    """A failure that keeltune foresaw: one message, an exit status, no traceback.

    `said`: another process of the run shows the message; it is shown once.
    """

    exit_status = 1
    said = False


class UserError(KeeltuneError, ValueError):
    """The recipe, the data or the call is at fault. Holds every problem found, not only the first.

    `listed_in`: a file with all of them, which the message names where it counts some.
    """

    exit_status = 2

    def __init__(self, problems: Problem | Iterable[Problem], listed_in: str = ""):
        given = [problems] if isinstance(problems, Problem) else problems
        self.problems = list(dict.fromkeys(given))  # two readers of one file may find the same fault
        self.listed_in = listed_in
        super().__init__(listing(self.problems, listed_in))

    def __reduce__(self) -> tuple[Any, ...]:
        """How it reaches another process: a data worker's is raised in the training."""
        return type(self), (self.problems, self.listed_in)


class StateRefused(UserError):
    """A checkpoint or a cache belongs to another recipe, data, model or tokenizer."""

    exit_status = 3


@contextmanager
def without_resume_option(folder: Path) -> Iterator[None]:
    """Within: calls that have neither `--overwrite`, so that a refused state is fixed by deleting `folder`, nor
    `--resume`: the same command goes on."""
    try:
        yield
    except (Stopped, OutOfResources) as error:
        raise type(error)(re.sub("(the same command and )?--resume", "the same command", str(error))) from error
    except StateRefused as error:
        fix = f"undo the change, or delete {folder}"
        raise StateRefused([replace(problem, fix=fix) for problem in error.problems]) from None


class Diverged(KeeltuneError, ArithmeticError):
    """The loss is not a finite number any more."""

    exit_status = 4


class OutOfResources(KeeltuneError):
    """The disk or the memory is full."""

    exit_status = 5


class UnequalExport(KeeltuneError):
    """An exported model does not answer as the model that it was made of."""

    exit_status = 6

    def __init__(self, message: str, exported: Any):
        super().__init__(message)
        self.exported = exported


class CallbackFailed(KeeltuneError):
    """A callback that the caller of `kt.train` gave raised `error`, which is what the caller gets."""

    def __init__(self, message: str, error: Exception):
        super().__init__(message)
        self.error = error


class Stopped(KeeltuneError):
    """The run was asked to stop; `--resume` goes on from the newest checkpoint."""

    exit_status = 75


def shown(value: Any, width: int = 80) -> str:
    """A value as a message may show it: cut to `width`, what is invisible in it spelt out, its type named."""
    text = brief(value if isinstance(value, str) else _written(value), width)
    return f'"{text}" (text)' if isinstance(value, str) else f"{text} ({_type_name(value)})"


def brief(text: str, width: int = 80) -> str:
    """The text as a message may show it, cut to `width`."""
    text = shown_text(text[:LONGEST])
    return text if len(text) <= width else text[: width - 1] + "…"


def _written(value: Any) -> str:
    """What Python writes for a value; a number of thousands of digits and lists a thousand deep it does not write."""
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return "…"


def _type_name(value: Any) -> str:
    names = {bool: "true/false", int: "a whole number", float: "a number", list: "a list", dict: "a mapping"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def visible(text: str, width: int = 80) -> str:
    """`shown` for text that is no value: what is invisible spelt out, no type beside it."""
    return shown(text, width).removesuffix(" (text)")


def name_list(names: Iterable[str]) -> str:
    """Names as a message lists them: the first twenty."""
    names = list(names)
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return (", ".join(map(visible, names[:20])) or "none") + more


def nearest(name: Any, names: Iterable[str]) -> str:
    """`; did you mean "x"?` for the closest of `names`, or an empty string."""
    match = difflib.get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.6)
    return f'; did you mean "{match[0]}"?' if match else ""


def listing(problems: Sequence[Problem], listed_in: str = "", label: str = "") -> str:
    """All problems as text: ten of each kind, and how many more of it there are, all of them in a file. `label` stands
    for their severity."""
    kinds: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.severity, problem.field, problem.kind or str(problem)), []).append(problem)
    blocks = []
    for same in kinds.values():
        blocks += [f"{label or p.severity}: {p}" for p in same[:LISTED]]
        if len(same) > LISTED:
            rest = f"… and {len(same) - LISTED} more of this kind ({same[0].kind or same[0].field})"
            blocks.append(rest + (f"; all are listed in {listed_in}" if listed_in else ""))
    return "\n".join(blocks)
