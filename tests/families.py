"""A row for each task: the architectures that it is tried on, and how small models and small data for it are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeltune.cli.demo_data import make_reviews
from tests import captioners, conftest, speakers, writers
from tests import test_question_answering as answerers
from tests import test_semantic_role_labeling as labellers


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
        tuple(conftest.SIZES),
        lambda folder, architecture, seed: conftest.save_tiny(folder, architecture, seed=seed),
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
        labellers.ARCHITECTURES,
        labellers.folder,
        lambda file: write_lines(file, [row.fields for row in labellers.rows()]),
    ),
    "question-answering": Family(
        answerers.ARCHITECTURES,
        answerers.folder_of,
        lambda file: write_lines(file, [row.fields for row in answerers.rows()]),
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
