"""A row for each task: the architectures that it is tried on, and how small models and small data for it are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeltune.cli.demo_data import make_reviews
from tests.helpers import captioners, models, readers, speakers, taggers, writers

METHODS = ("fine-tuning", "distillation", "cross-domain")


def by_turns(cases: Sequence[tuple], methods: Sequence[str] = METHODS) -> list[tuple]:
    """(*case, method): the first case under every method, each of the others under one of them, by turns."""
    first, *others = cases
    return [(*first, method) for method in methods] + [
        (*case, methods[number % len(methods)]) for number, case in enumerate(others)
    ]


@dataclass(frozen=True)
class Family:
    """`save(folder, architecture, seed)` makes a model folder, `write(file)` rows and what lies beside them; `fields`
    are those of a recipe that small models need."""

    architectures: tuple[str, ...]
    save: Callable[[Path, str, int], Any]
    write: Callable[[Path], Any]
    fields: Mapping[str, Any] = field(default_factory=dict)


def write_lines(file: Path, lines: list[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def classifying() -> Family:
    return Family(
        tuple(models.SIZES),
        lambda folder, architecture, seed: models.save_tiny(folder, architecture, seed=seed),
        lambda file: write_lines(file, make_reviews("films", 24, seed=1)),
    )


def writing(task: str, architectures: tuple[str, ...]) -> Family:
    return Family(
        architectures,
        lambda folder, architecture, seed: writers.folder_of(*writers.writer(architecture, seed, task), folder),
        lambda file: write_lines(file, [row.fields for row in writers.rows(task)]),
        {"generation": {"max_new_tokens": 4}},
    )


FAMILIES = {
    "text-classification": classifying(),
    "sentiment-analysis": classifying(),
    "semantic-role-labeling": Family(
        taggers.ARCHITECTURES,
        taggers.folder,
        lambda file: write_lines(file, [row.fields for row in taggers.rows()]),
    ),
    "question-answering": Family(
        readers.ARCHITECTURES,
        readers.folder_of,
        lambda file: write_lines(file, [row.fields for row in readers.rows()]),
        {"max_length": 32},
    ),
    "translation": writing("translation", writers.ENCODER_DECODERS),
    "summarization": writing("summarization", writers.ENCODER_DECODERS),
    "text-generation": writing("text-generation", writers.DECODERS),
    "image-captioning": Family(
        captioners.LOADABLE,
        lambda folder, kind, seed: captioners.save(kind, folder, seed),
        lambda file: captioners.write(file.parent, file.name, 6),
        {"generation": {"max_new_tokens": 4}},
    ),
    "speech-recognition": Family(
        speakers.KINDS,
        lambda folder, kind, seed: speakers.save(kind, folder, seed),
        lambda file: speakers.write(file.parent, file.name, range(12)),
        {"generation": {"max_new_tokens": 4}},
    ),
}


def spec(folder: Path, task: str, architecture: str, method: str) -> dict:
    family = FAMILIES[task]
    family.save(folder / "student", architecture, 0)
    if method == "distillation":
        family.save(folder / "teacher", architecture, 1)
    family.write(folder / "rows.jsonl")
    return {
        "task": task,
        "method": method,
        "model": "student",
        **({"reference": "teacher"} if method == "distillation" else {}),
        **({"objective": {"weight": 0.3}} if method != "fine-tuning" else {}),
        "data": {"train": "rows.jsonl", "test": "rows.jsonl"},
        "training": {
            "max_steps": 6, "batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2,
            "precision": "fp32", "save_steps": 3,
        },
        **family.fields,
    }  # fmt: skip
