"""What a run left behind, as facts that must be the same after any fault: to the bit, but for times and places."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOMENT = re.compile(r"seconds|_per_second|memory|finished|took|minutes|_runtime|^when$")
"""Names of values that are of the moment."""

DRAWN = re.compile(r"result\.json digests result|looks\.jsonl:\d+ training")
"""Values that are each training's own: the digest of all values, times too, and the number that a training draws."""


def facts(folder: Path) -> dict[str, Any]:
    """{name: value} of a run's folder: digests of its files, the values of its JSON, the names of all that lies there.

    Of checkpoints only that none is half written: `leftovers`.
    """
    found: dict[str, Any] = {"leftovers": leftovers(folder)}

    def read(file: Path) -> str:
        return file.read_text(encoding="utf-8").replace(str(folder.parent), "")

    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder)
        if name.parts[0] == "checkpoints" or any(part.startswith(".") for part in name.parts):
            continue
        if file.name == "result.json":
            found |= dict(_flat("result.json", json.loads(read(file))))
        elif file.name in ("log.jsonl", "looks.jsonl"):
            for number, line in enumerate(read(file).splitlines(), start=1):
                found |= dict(_flat(f"{file.name}:{number}", json.loads(line)))
        elif file.suffix in (".html", ".md"):
            found[str(name)] = "is there"
        else:
            found[str(name)] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def leftovers(folder: Path) -> list[str]:
    """What writers leave when they are killed, anywhere in a folder."""
    wild = re.compile(r"^\.(staging|trash|tmp|trial)")
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if wild.match(path.name))


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if MOMENT.search(name.rsplit(" ", 1)[-1]) or DRAWN.fullmatch(name):
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name} {key}", inner)
    elif isinstance(value, list):
        yield f"{name} []", len(value)
        for key, inner in enumerate(value):
            yield from _flat(f"{name} {key}", inner)
    else:
        yield name, value


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names whose values differ, with both."""
    names = sorted({*one, *other})
    return [
        f"{name}: {one.get(name, '–')} / {other.get(name, '–')}" for name in names if one.get(name) != other.get(name)
    ]
