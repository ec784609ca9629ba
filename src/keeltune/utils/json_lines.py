"""Files of JSON lines that keeltune wrote, read back: logs and predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keeltune.utils.errors import Problem, UserError, shown, visible
from keeltune.utils.files import open_regular
from keeltune.utils.json import parse_json, strict_value


def read_lines(file: Path, *, infinity: bool = False) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines in UTF-8; none where there is no file. A text in them may hold U+2028, so
    that `splitlines` would cut it. Raises `UserError` that names the line of what is none; `infinity` as `read_json`.
    """
    if not file.is_file():
        return []
    with open_regular(file) as stream:
        lines = stream.read().split(b"\n")
    values = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                value = strict_value(line.decode(), infinity=True) if infinity else parse_json(line)
            except ValueError as error:
                where, found = f"{file}:{number}", visible(str(error), 200)
                problem = Problem(where, "", found, "a line of JSON, as keeltune writes it", "copy the file again")
                raise UserError(problem) from None
            if not isinstance(value, dict):
                problem = Problem(f"{file}:{number}", "", shown(value), "a mapping a line", "copy the file again")
                raise UserError(problem)
            values.append(value)
    return values
