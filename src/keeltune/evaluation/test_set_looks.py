"""How often the test rows were scored: repeated test-set evaluation overfits to them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from keeltune.utils.files import open_regular, write_text
from keeltune.utils.json import parse_json

LOOKS = "looks.jsonl"


def look(folder: Path, *, by: str, fingerprint: str, rows: int, training: int | None = None) -> int:
    """Writes down that rows were scored with a run's model; how often those very rows have been now.

    A folder that cannot be written to keeps no count; the look is counted from what it holds. `training`: which one of
    the folder it was, whose end looks once, however often it is interrupted.
    """
    looks = looks_of(folder)
    if training is None or training not in (other.get("training") for other in looks):
        numbered = {} if training is None else {"training": training}
        looks = [*looks, {"when": now(), "by": by, "fingerprint": fingerprint, "rows": rows, **numbered}]
        with suppress(OSError):
            write_text(folder / LOOKS, "".join(json.dumps(line) + "\n" for line in looks))
    return sum(other["fingerprint"] == fingerprint for other in looks)


def looks_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's count; one that was cut, by a full disk, say, is passed over."""
    looks = []
    with suppress(OSError):
        with open_regular(folder / LOOKS) as stream:
            lines = stream.read().split(b"\n")
        for line in lines:
            with suppress(ValueError):
                if isinstance(entry := parse_json(line), dict) and "fingerprint" in entry:
                    looks.append(entry)
    return looks


def looks_at_test(folder: Path, result: Mapping[str, Any]) -> int:
    """How often a run's own test rows were scored with its model."""
    tested = ((result.get("data") or {}).get("test") or {}).get("fingerprint")
    return sum(look["fingerprint"] == tested for look in looks_of(folder))


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
