"""Sentences with names of persons, organisations and places, of two domains, as IOB2 tags of their words."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

NAMES = {
    "PER": ("Anna", "Ben", "Chen", "Dara", "Emil", "Fatima", "Georg", "Hana", "Anna Abel", "Chen Li", "Ivan Costa"),
    "LOC": ("Berlin", "Lagos", "Osaka", "Lima", "Oslo", "Cairo", "Quito", "New York", "Cape Town"),
    "ORG": ("Nordwind", "Acme Ltd", "Blue Harbor Group", "Delta Foods", "Vega", "Silver Bank"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
    "thing": ("printer", "invoice", "laptop", "contract", "door", "heating", "keyboard", "server", "badge"),
}
TEMPLATES = {
    "wire": (
        "{PER} of {ORG} arrived in {LOC} on {day} .", "{ORG} opens an office in {LOC} .", "{PER} met {PER} in {LOC} .",
        "Shares of {ORG} fell after {PER} resigned .", "{LOC} : {ORG} and {ORG} agreed on a price .",
        "The {thing} is expected on {day} .",
    ),
    "letters": (
        "hi {PER} , is the {thing} still in {LOC} ?", "please send the {thing} to {ORG} , thanks , {PER}",
        "{PER} cannot come , she is in {LOC} until {day}", "the people at {ORG} asked for you again",
        "can you call {PER} at {ORG} on {day} ?", "thanks a lot !",
    ),
}  # fmt: skip


def sentences(domain: str, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows without end, no two alike."""
    drawn, seen = random.Random(f"{domain} {seed}"), set()
    while True:
        tokens: list[str] = []
        tags: list[str] = []
        for word in drawn.choice(TEMPLATES[domain]).split():
            kind = word.strip("{}") if word.startswith("{") else ""
            name = drawn.choice(NAMES[kind]).split() if kind else [word]
            tokens += name
            tags += [f"B-{kind}", *[f"I-{kind}"] * (len(name) - 1)] if kind.isupper() else ["O"]
        if (text := " ".join(tokens)) not in seen:
            seen.add(text)
            yield {"tokens": tokens, "tags": tags}


def write(folder: Path, rows: int = 100) -> None:
    """`rows` of each domain to train on, as many without tags of the new one, a quarter to choose and to test by."""
    few = max(4, rows // 4)
    more: dict[str, dict[str, int]] = {"wire": {}, "letters": {"unlabeled": rows}}
    for domain, splits in more.items():
        stream = sentences(domain)
        (folder / domain).mkdir(parents=True, exist_ok=True)
        for split, count in {"test": few, "validation": few, "train": rows, **splits}.items():
            made = [row if split != "unlabeled" else {"tokens": row["tokens"]} for row in islice(stream, count)]
            text = "".join(json.dumps(row) + "\n" for row in made)
            (folder / domain / f"{split}.jsonl").write_text(text, encoding="utf-8", newline="\n")
