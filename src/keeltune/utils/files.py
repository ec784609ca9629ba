"""Files written whole or not at all, and JSON in them."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none where there is no file. A text in them may hold U+2028, so that
    `splitlines` would cut it."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines if line]


def write_json(path: Path, value: Any) -> None:
    """JSON without NaN: what is no number is refused here, not read as one elsewhere."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: written under another name, flushed to disk, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: staged, synced, renamed, and the folder synced."""
    staging = path.with_name(f".staging-{os.getpid()}-{path.name}")
    try:
        with staging.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        staging.replace(path)
    except OSError:
        with suppress(OSError):
            staging.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
