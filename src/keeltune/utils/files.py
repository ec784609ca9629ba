"""Files written whole or not at all, their digests, and the refusal of another run's files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from keeltune.utils.errors import Problem, StateRefused


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none where there is no file. A text in them may hold U+2028, so that
    `splitlines` would cut it."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines if line]


def write_json(path: Path, value: Any) -> None:
    """JSON without NaN: what is no number is refused here, not read as one elsewhere."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: written beside, flushed to disk, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seal(path, text.encode())


def digest_of(*parts: bytes) -> bytes:
    """SHA-256 of parts whose borders count."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def canonical(value: Any) -> str:
    """JSON of which there is but one spelling."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def seal(path: Path, content: bytes) -> None:
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


def file_digest(file: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def refuse_other(
    folder: Path, stored: Mapping[str, Any], asked: Mapping[str, Any], fix: str, *, holder: str = "the cache"
) -> None:
    """Raises StateRefused with each field in which a cache (or another `holder`) is not as asked for; both values."""
    problems = [
        Problem(str(folder), name, f"{_short(then)} in {holder}", f"{_short(now)}, as this recipe has it", fix)
        for name, then, now in differences(stored, asked)
    ]
    if problems:
        raise StateRefused(problems)


def differences(then: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted fields in which two nested mappings differ, with both values."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return [d for key in {**then, **now}
                for d in differences(then.get(key), now.get(key), f"{name}.{key}" if name else str(key))]  # fmt: skip
    return [(name, then, now)] if then != now else []


def _short(value: Any, width: int = 80) -> str:
    text = "nothing" if value is None else canonical(value)
    return text if len(text) <= width else text[: width - 1] + "…"
