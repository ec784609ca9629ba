"""Exactness on every architecture of transformers: small random models, found by transformers' own mappings.

    python -m benchmarks.architectures --out FILE.jsonl [--task T] [--only NAME]
    python -m benchmarks.architectures --table FILE.jsonl > docs/architectures.md

A run adds a line for each cell to FILE and leaves out those that FILE has: it goes on where it was stopped. It needs
this checkout (the tests' rows); about 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path

import transformers
from benchmarks.architectures import checks, table
from benchmarks.architectures.discovery import TASKS, cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON lines, one a cell; those that it has are not run again")
    parser.add_argument("--task", choices=TASKS, action="append", help="these tasks alone")
    parser.add_argument("--only", action="append", help="these architectures alone (model_type)")
    parser.add_argument("--again", action="store_true", help="runs those again that have not passed")
    parser.add_argument("--debug", action="store_true", help="tracebacks")
    parser.add_argument("--table", type=Path, help="prints the page of such a file, and runs nothing")
    given = parser.parse_args()
    if given.table:
        print(table.page(read(given.table), transformers.__version__))
        return
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    checks.DEBUG = given.debug
    done = {(line["task"], line["architecture"]): line["outcome"] for line in read(given.out)} if given.out else {}
    for cell in cells(given.task or TASKS):
        if given.only and cell.architecture not in given.only:
            continue
        before = done.get((cell.task, cell.architecture))
        if before == "passed" or (before and not given.again):
            continue
        gc.freeze()  # each Trainer collects garbage several times: not among all that was imported
        line = json.dumps(checks.asdict(checks.run(cell)))
        print(line, flush=True)
        if given.out:
            with given.out.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")


def read(file: Path) -> list[dict]:
    """The last line of each cell."""
    if not file.is_file():
        return []
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list({(line["task"], line["architecture"]): line for line in lines}.values())


if __name__ == "__main__":
    main()
