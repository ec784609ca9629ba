"""A row for each task: the architectures that it is tried on, and how small models and small data for it are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from keeltune.cli.demo_data import make_reviews
from keeltune.tasks.task import Task
from keeltune.tasks.token_classification import TokenClassification
from keeltune.utils import registry
from tests.helpers import captioners, models, once, readers, speakers, taggers, writers

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


def rated(count: int, seed: int) -> list[dict[str, Any]]:
    """Reviews with a number: 3, or 4 where they are positive, and a little for the length."""
    return [
        {"text": row["text"], "target": 3.0 + (row["label"] == "positive") + 0.01 * (len(row["text"]) % 7)}
        for row in make_reviews("films", count, seed=seed)
    ]


FAMILIES = {
    "text-classification": classifying(),
    "sentiment-analysis": classifying(),
    "semantic-role-labeling": Family(
        taggers.ARCHITECTURES,
        taggers.folder,
        lambda file: write_lines(file, [row.fields for row in taggers.rows()]),
    ),
    "regression": Family(
        ("bert", "roberta", "distilbert", "gpt2"),
        lambda folder, architecture, seed: models.save_numbers(folder, architecture, seed=seed),
        lambda file: write_lines(file, rated(24, seed=1)),
    ),
    "token-classification": Family(
        taggers.ARCHITECTURES,
        lambda folder, kind, seed: taggers.folder(folder, kind, seed, taggers.ENTITY_NAMES, TokenClassification),
        taggers.write_entities,
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


def family_of(task: str) -> Family:
    """The row of a task; of a new one that of a task with the same base class, its rows under the new one's columns."""
    if task in FAMILIES:
        return FAMILIES[task]
    new = registry.find("tasks", task)
    for name, family in FAMILIES.items():
        sibling = registry.find("tasks", name)
        if issubclass(new, sibling.__mro__[1]):

            def write(file: Path, sibling: type[Task] = sibling, family: Family = family) -> None:
                family.write(file)
                rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
                write_lines(file, [under_columns(row, sibling, new) for row in rows])

            return replace(family, write=write)
    raise LookupError(f"{task} has a base class that no task has: give it a row of FAMILIES in {__file__}")


def under_columns(row: Mapping[str, Any], sibling: type[Task], new: type[Task]) -> dict[str, Any]:
    """A row of `sibling` as one of `new`: each column gets the value of one of the same kind."""
    values = {
        kind: cycle([row[c.name] for c in sibling.columns if c.kind == kind and c.name in row])
        for kind in {c.kind for c in new.columns}
    }
    return {c.name: row.get(c.name) or next(values[c.kind]) for c in new.columns if c.required or c.name in row}


def spec(folder: Path, task: str, architecture: str, method: str) -> dict:
    family = family_of(task)
    for seed, name in enumerate(("student", "teacher") if method == "distillation" else ("student",)):
        once.make(
            folder / name,
            (family.save, architecture, seed),
            lambda place, seed=seed: family.save(place, architecture, seed),  # type: ignore[misc]
        )
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
