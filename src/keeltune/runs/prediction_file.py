"""Files of predictions: what `keeltune predict` writes (each input row with its prediction, as JSON lines, CSV or TSV),
and the lines of a run folder, read back."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keeltune.evaluation.scores import table_of
from keeltune.tasks.task import Task
from keeltune.utils.errors import Problem, UserError, shown, visible
from keeltune.utils.files import try_writing, write_text
from keeltune.utils.json_lines import read_lines
from keeltune.utils.system_faults import reason

ENDINGS = (".jsonl", ".csv", ".tsv")

FORMULA = re.compile(r"[\s\0]*[=+\-@＝＋－＠]|[\t\r\n]")
"""How a cell begins that a spreadsheet may take for a formula; source: OWASP, CSV Injection,
https://owasp.org/www-community/attacks/CSV_Injection."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def refuse_output(path: Path, source: str, model: str, *, overwrite: bool = True) -> None:
    """UserError where the predictions cannot be written, or would take the place of something else: the input itself
    or a file in its folder, one of the model's own, what is no plain file, and without `overwrite` any file that is
    there."""

    def refuse(found: str, expected: str, fix: str = "name another file") -> UserError:
        return UserError(Problem(str(path), "--output", found, expected, fix))

    if path.suffix not in ENDINGS:
        raise refuse(shown(path.suffix), " ".join(ENDINGS), "name such a file")
    try:
        taken, read = path.resolve(), Path(source).resolve()
        if taken == read or (read.is_dir() and taken.is_relative_to(read)) or _same_file(taken, read):
            raise refuse("the input, or a file in its folder", "a file beside the input")
        if path.exists() and taken.is_relative_to(Path(model).resolve()):
            raise refuse("a file of the model's folder", "a new file")
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise refuse("a link, a folder or a device", "a new file")
        if path.exists() and not overwrite:
            raise refuse("a file that is there", "a new file", "add --overwrite, or name another file")
        try_writing(path.parent)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise refuse(reason(error), "a file that can be written") from None


def _same_file(one: Path, other: Path) -> bool:
    """Whether two names are one file, as hard links are."""
    return one.exists() and other.exists() and one.samefile(other)


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows whole or not at all; in a table, what is no plain value is JSON, and no cell is a formula."""
    if path.suffix == ".jsonl":
        write_text(path, "".join(_json(row) + "\n" for row in rows))
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines: list[str] = []
    writer = csv.writer(_Lines(lines), delimiter="\t" if path.suffix == ".tsv" else ",")
    writer.writerow([_cell(name) for name in names])
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in names])
    write_text(path, "".join(lines))


def _cell(value: Any) -> Any:
    """A cell; before a text that a spreadsheet would compute stands an apostrophe, which it takes for "text follows".

    A number, also one in a text (-5, +1e3), is no formula and stays as it is.
    """
    text = _json(value) if isinstance(value, dict | list) else value
    if isinstance(text, str) and FORMULA.match(text) and not NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str:
    """A value that JSON has no form for (a date, bytes of a Parquet column), as text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


class _Lines:
    """What `csv` writes to: a list of lines."""

    def __init__(self, lines: list[str]):
        self.lines = lines

    def write(self, text: str) -> None:
        self.lines.append(text)


def scored_lines(task: Task, file: Path, rows: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The lines of a run folder's prediction file, and the table [rows, K + 2] that the metrics are made of.

    Raises: UserError where they are not `rows` lines of this task as a run writes them.
    """
    lines = read_lines(file)
    expected, fix = f"{rows} lines with prediction, gold and score", "copy the run folder again, or train anew"
    if len(lines) != rows:
        raise UserError(Problem(str(file), "", f"{len(lines)} lines", expected, fix))
    for number, line in enumerate(lines, 1):
        score = line.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise UserError(Problem(f"{file}:{number}", "score", visible(repr(score)), expected, fix))
    try:
        table = table_of(task, lines)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        found = f"no predictions of this task ({type(error).__name__}: {visible(str(error))})"
        raise UserError(Problem(str(file), "", found, expected, fix)) from error
    return lines, table
