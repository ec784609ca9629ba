"""The programs of model cards, run where keeltune cannot be imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUNNER = """
import json, os, sys
without, given = json.loads(sys.stdin.read())
sys.modules |= dict.fromkeys(without)  # whoever imports one of them fails
answers = []
for place, program, rows in given:
    os.chdir(place)
    before, row_line, after = program
    answers.append([])
    for row in rows:
        names = {}
        exec(compile(before + (f"row = {row!r}" if row else row_line) + after, place, "exec"), names)
        answers[-1].append(names["answer"])
assert not any(name.startswith("keeltune.") for name in sys.modules)
print("ANSWERS" + json.dumps(answers))
"""


def program_of(folder: Path) -> str:
    """The program in a folder's card: its one block of Python."""
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    return program


def row_of(folder: Path) -> dict[str, Any]:
    """The made-up row in a card's program."""
    names: dict[str, Any] = {}
    exec(_parts(program_of(folder))[1], names)
    return names["row"]


def _parts(program: str) -> list[str]:
    found = re.fullmatch(r"(.*^)(row = [^\n]*)(\n.*)", program, re.DOTALL | re.MULTILINE)
    assert found, program
    return list(found.groups())


def answers(
    asked: Sequence[tuple[Path, Sequence[dict[str, Any] | None]]], without: Sequence[str] = ("keeltune",)
) -> list[list[Any]]:
    """What the programs of cards answer: of each folder to each row, None standing for the card's own; `without`
    packages that cannot be imported there."""
    given = [(str(folder), _parts(program_of(folder)), list(rows)) for folder, rows in asked]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUNNER], input=json.dumps([list(without), given]),
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS")]
    return json.loads(line.removeprefix("ANSWERS"))
