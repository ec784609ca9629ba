"""What a preparation finds wrong, and what users should know: everything in the order in which it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from keeltune.data.row_problems import is_row_problem
from keeltune.utils.errors import Problem, StateRefused, UserError

T = TypeVar("T")


@contextmanager
def placed(where: Callable[[str], str]) -> Iterator[None]:
    """Within, a problem that says no place, as one of a model's own parts that know no recipe, gets `where(field)`."""
    try:
        yield
    except UserError as error:
        raise type(error)([replace(p, where=p.where or where(p.field)) for p in error.problems]) from error


@dataclass
class ProblemLog:
    """`errors` stop the run, `warnings` do not; `skipped` are faults of rows that the recipe's `bad_rows` leaves out.

    `skips_rows`: whether it leaves them out (`bad_rows: skip`).
    """

    skips_rows: bool
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def add(self, problems: Sequence[Problem]) -> None:
        """Each by its severity."""
        self.errors += [problem for problem in problems if problem.severity == "error"]
        self.warnings += [problem for problem in problems if problem.severity == "warning"]

    def add_found(self, problems: Sequence[Problem]) -> None:
        """Each by its severity; errors of single rows are left out or stop the run."""
        for problem in problems:
            of_row = problem.severity == "error" and is_row_problem(problem)
            (self.add_of_rows if of_row else self.add)([problem])

    def add_of_rows(self, problems: Sequence[Problem]) -> None:
        """Errors of single rows, which are left out or stop the run."""
        (self.skipped if self.skips_rows else self.errors).extend(problems)

    def collect(self, step: Callable[[], T]) -> T | None:
        """What `step` returns; None, and its problems among the errors, where it raises UserError. A refused state is
        passed on: what lies there is not what was written, and all else that could be said of it misleads."""
        try:
            return step()
        except StateRefused:
            raise
        except UserError as error:
            self.errors += error.problems
            return None

    def raise_errors(self) -> None:
        """UserError with all errors so far, where there are any."""
        if self.errors:
            raise UserError(self.errors)
