"""Writes `losses.json` anew: python -m tests.golden.make

Only where the losses are meant to change; the commit says why they do.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.golden.runs import CELLS, FILE, losses, name_of


def main() -> None:
    stored = {}
    for cell in CELLS:
        with tempfile.TemporaryDirectory() as folder:
            steps = losses(Path(folder), *cell)
        stored[name_of(*cell)] = [{term: float(f"{value:.9g}") for term, value in step.items()} for step in steps]
        print(name_of(*cell), *(f"{step['loss']:.6f}" for step in steps))
    lines = [f"  {json.dumps(name)}: [\n    " + ",\n    ".join(map(json.dumps, steps)) + "\n  ]"
             for name, steps in stored.items()]  # fmt: skip
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
