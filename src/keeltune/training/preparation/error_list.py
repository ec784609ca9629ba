"""`errors.jsonl` beside the recipe: the faults of all bad rows, where there are more of a kind than a message lists.

{"file", "row", "id", "field", "found", "expected", "fix"} a line, in the words of the message. A later preparation
replaces it, or takes it away where no list is needed any more; a file of that name which is not such a list is let be.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from keeltune.data.row_problems import RowProblem
from keeltune.recipe.fields import Recipe
from keeltune.training.preparation.problem_log import ProblemLog
from keeltune.utils.distributed import is_main_process
from keeltune.utils.errors import LISTED, Problem, UserError
from keeltune.utils.files import open_regular, write_text
from keeltune.utils.json import parse_json

ERRORS = "errors.jsonl"

KEYS = ("file", "row", "id", "field", "found", "expected", "fix")


@contextmanager
def all_listed(recipe: Recipe, log: ProblemLog) -> Iterator[None]:
    """Within: an error that counts faults of rows names the file that lists them; rows that are skipped are listed in
    it too."""
    file = recipe.folder / ERRORS
    try:
        yield
    except UserError as error:
        faults = _of_rows([*error.problems, *log.skipped])
        if faults and (written := _replace(file, faults)):
            raise type(error)(error.problems, str(written)) from error
        raise
    _replace(file, _of_rows(log.skipped))


def written_list(recipe: Recipe) -> str:
    """The file in which a recipe's bad rows are listed; empty where there is none."""
    file = recipe.folder / ERRORS
    return str(file) if _is_list(file) else ""


def _of_rows(problems: Sequence[Problem]) -> list[RowProblem]:
    return [problem for problem in dict.fromkeys(problems) if isinstance(problem, RowProblem)]


def _replace(file: Path, faults: Sequence[RowProblem]) -> Path | None:
    """Writes the faults in place of an earlier list, if there are more of a kind than a message has; else takes that
    away. The file, or None where it is not written: another process does, or the folder cannot be written to."""
    needed = max(Counter((fault.field, fault.kind) for fault in faults).values(), default=0) > LISTED
    if not is_main_process() or (file.exists() and not _is_list(file)):
        return None
    with suppress(OSError):
        if not needed:
            file.unlink(missing_ok=True)
            return None
        write_text(file, "".join(_line(fault) for fault in faults))
        return file
    return None


def _line(fault: RowProblem) -> str:
    values = (fault.file, fault.line, fault.id, fault.field, fault.found, fault.expected, fault.fix)
    return json.dumps(dict(zip(KEYS, values, strict=True)), ensure_ascii=False) + "\n"


def _is_list(file: Path) -> bool:
    """Whether a file begins as a list of ours."""
    try:
        with open_regular(file) as stream:
            first = parse_json(stream.readline(1 << 20))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and tuple(first) == KEYS
