"""Reviews with a rating from 1 to 5 and a fraction, of two domains: what the words are worth, and a little chance."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

WORTH = {
    "wonderful": 2.0, "great": 1.5, "good": 1.0, "decent": 0.5, "average": 0.0, "weak": -0.5, "poor": -1.0,
    "awful": -1.5, "terrible": -2.0,
}  # fmt: skip
PARTS = {
    "hotels": ("the room", "the breakfast", "the staff", "the view", "the bed", "the pool"),
    "phones": ("the screen", "the battery", "the camera", "the sound", "the case", "the charger"),
}


def reviews(domain: str, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows without end, no two alike."""
    drawn, seen = random.Random(f"{domain} {seed}"), set()
    while True:
        words = drawn.choices(list(WORTH), k=drawn.randint(1, 4))
        parts = drawn.sample(PARTS[domain], len(words))
        text = ", ".join(f"{part} was {word}" for part, word in zip(parts, words, strict=True)) + "."
        number = 3 + sum(WORTH[word] for word in words) / len(words) + drawn.gauss(0, 0.2)
        if text not in seen:
            seen.add(text)
            yield {"text": text, "target": round(min(5.0, max(1.0, number)), 2)}


def write(folder: Path, rows: int = 100) -> None:
    """`rows` of each domain to train on, of the new one as many without a rating; a quarter to choose and test by."""
    few = max(4, rows // 4)
    more: dict[str, dict[str, int]] = {"hotels": {}, "phones": {"unlabeled": rows}}
    for domain, splits in more.items():
        stream = reviews(domain)
        (folder / domain).mkdir(parents=True, exist_ok=True)
        for split, count in {"test": few, "validation": few, "train": rows, **splits}.items():
            made = [row if split != "unlabeled" else {"text": row["text"]} for row in islice(stream, count)]
            text = "".join(json.dumps(row) + "\n" for row in made)
            (folder / domain / f"{split}.jsonl").write_text(text, encoding="utf-8", newline="\n")
