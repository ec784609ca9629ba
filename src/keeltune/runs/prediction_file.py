"""The file of `keeltune predict`: each input row with its prediction, as JSON lines, CSV or TSV."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keeltune.utils.errors import Problem, UserError, shown
from keeltune.utils.files import write_text

ENDINGS = (".jsonl", ".csv", ".tsv")


def refuse_other_endings(path: Path) -> None:
    if path.suffix not in ENDINGS:
        raise UserError(Problem(str(path), "--output", shown(path.suffix), " ".join(ENDINGS), "name such a file"))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows whole or not at all; in a table, what is no plain value is JSON."""
    if path.suffix == ".jsonl":
        write_text(path, "".join(_json(row) + "\n" for row in rows))
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines: list[str] = []
    writer = csv.DictWriter(_Lines(lines), names, delimiter="\t" if path.suffix == ".tsv" else ",")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: _json(value) if isinstance(value, dict | list) else value for name, value in row.items()}
        )
    write_text(path, "".join(lines))


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
