"""The rows of a real data set's folder, for the drivers beside this file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any


def lines(folder: Path, split: str, count: int | None = None) -> list[str]:
    """The first `count` rows of SPLIT.jsonl or SPLIT.jsonl.gz, all of them by default, each as its line of JSON.

    Cut at line feeds alone: `splitlines` would cut a text at its own U+0085 or U+2028.
    """
    (source, *_) = sorted(folder.glob(f"{split}.jsonl*"))
    raw = source.read_bytes()
    text = (gzip.decompress(raw) if source.suffix == ".gz" else raw).decode("utf-8")
    return [line for line in text.split("\n") if line][:count]


def rows(folder: Path, split: str, count: int | None = None) -> list[dict[str, Any]]:
    """The same, read."""
    return [json.loads(line) for line in lines(folder, split, count)]


def written(place: Path, these: list[str] | list[dict[str, Any]]) -> str:
    """A file of rows, given as lines or as objects; its path."""
    place.parent.mkdir(parents=True, exist_ok=True)
    made = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in these]
    place.write_text("".join(line + "\n" for line in made), encoding="utf-8")
    return str(place)
