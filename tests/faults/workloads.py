"""What is trained while faults happen: small random models of all families, under every method and kind of reference.

A workload is a recipe with its models and rows in a folder; it has dropout, several evaluations and several saves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PRECISE = {"batch_size": 4, "learning_rate": 1e-2, "precision": "fp32", "logging_steps": 1}


@dataclass(frozen=True)
class Workload:
    """`files` makes what a recipe reads in a folder; `fields` are the recipe's; `ranks`: processes that train it."""

    files: Callable[[Path], Any]
    fields: Mapping[str, Any]
    ranks: int = 1
    training: Mapping[str, Any] = field(default_factory=dict)

    def make(self, folder: Path) -> None:
        """The models, the rows, and `recipe.yaml`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.files(folder)
        data = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
        training = {**PRECISE, **self.training}
        values = {"data": data, "evaluation": {"every": 3}, "output": "out", **self.fields, "training": training}
        (folder / "recipe.yaml").write_text(json.dumps(values), encoding="utf-8")


# The helpers import torch, which who only names workloads need not do.


def _reviews(folder: Path) -> None:
    from tests.helpers import runs
    from tests.helpers.models import save_tiny

    save_tiny(folder / "student", "distilbert", seed=0)
    save_tiny(folder / "teacher", "distilbert", seed=5)
    rows = runs.reviews(160, seed=1)
    parts = {"train": rows[:20], "validation": rows[20:28], "test": rows[28:36]}
    parts |= {"old-train": rows[36:48], "old-validation": rows[48:56], "old-test": rows[56:64]}
    for name, part in parts.items():
        runs.write_rows(folder / f"{name}.jsonl", part)
    for name, part in (("pool", rows[64:80]), ("old-texts", rows[80:96])):
        runs.write_rows(folder / f"{name}.jsonl", [{"text": row["text"]} for row in part])


def _questions(folder: Path) -> None:
    from tests.helpers import readers

    readers.folder_of(folder / "student", "bert", 0)
    rows = readers.rows()
    for name, part in (("train", rows), ("validation", rows[:4]), ("test", rows[4:])):
        readers.write(folder / f"{name}.jsonl", part)


def _roles(folder: Path) -> None:
    from tests.helpers import taggers

    taggers.folder(folder / "student", "bert")
    taggers.folder(folder / "teacher", "roberta", seed=1, names=list(reversed(taggers.NAMES)))
    lines = [row.fields for row in taggers.rows()]
    for name in ("train", "validation", "test"):
        taggers.write(folder / f"{name}.jsonl", lines)


def _texts(task: str, architecture: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from tests.helpers import writers

        for name, seed in (("student", 0), ("teacher", 1)):
            writers.folder_of(*writers.writer(architecture, seed=seed, task=task), folder / name)
        for name in ("train", "validation", "test"):
            writers.write(folder / f"{name}.jsonl", task)

    return make


def _pictures(folder: Path) -> None:
    from tests.helpers import captioners

    captioners.save("vit gpt2", folder / "student", seed=0)
    for name, count in (("train", 6), ("validation", 3), ("test", 3)):
        captioners.write(folder, f"{name}.jsonl", count)


def _sounds(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from tests.helpers import speakers

        for name, seed in (("student", 0), ("teacher", 1)):
            speakers.save(kind, folder / name, seed)
        for name, places in (("train", range(8)), ("validation", range(3)), ("test", range(3))):
            speakers.write(folder, f"{name}.jsonl", places)

    return make


SHORT = {"generation": {"max_new_tokens": 4}}
SENTIMENT = {"task": "sentiment-analysis", "model": "student"}
ANCHORED = {"method": "cross-domain", "model": "student", "objective": {"weight": 0.3}}
TAUGHT = {"method": "distillation", "model": "student", "reference": "teacher"}
CACHED = {**TAUGHT, "reference": {"model": "teacher", "from": "cached", "cache": "kept"}}
SIX = {"max_steps": 6, "save_steps": 2}
SPLITS = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
OLD = {name: f"old-{file}.jsonl" for name, file in {"validation": "validation", "test": "test"}.items()}

FEW = Workload(
    _reviews,
    {**SENTIMENT, "method": "fine-tuning", "evaluation": {"every": 2}},
    training={"max_steps": 6, "save_steps": 2},
)
"""The shortest run with three saves, of which two are kept, and three evaluations: for faults at each of its calls."""

FEW_WORKERS = Workload(_reviews, FEW.fields, training={**FEW.training, "dataloader_num_workers": 2})
"""The same with two processes that read its rows."""

FEW_CACHED = Workload(_reviews, {**SENTIMENT, **CACHED, "evaluation": {"every": 2}}, training=FEW.training)
"""The same with a teacher whose answers are kept."""

WORKLOADS: dict[str, Workload] = {
    "classification, accumulation, averages": Workload(
        _reviews,
        {"task": "text-classification", "method": "fine-tuning", "model": "student",
         "evaluation": {"every": 1, "patience": "auto"}},
        training={"max_steps": 8, "save_steps": 2, "batch_size": 2, "gradient_accumulation_steps": 2,
                  "regularizers": {"weight_average": 0.7}},
    ),
    "sentiment, online teacher, pool": Workload(
        _reviews,
        {**SENTIMENT, **TAUGHT, "data": {**SPLITS, "unlabeled": "pool.jsonl"}},
        training={"epochs": 2, "gradient_accumulation_steps": 2, "save_steps": 2},
    ),
    "question answering, anchored": Workload(
        _questions, {"task": "question-answering", **ANCHORED, "max_length": 32}, training={"epochs": 4},
    ),
    "roles, cached teacher": Workload(
        _roles, {"task": "semantic-role-labeling", **CACHED, "evaluation": {"every": "auto"}}, training={"epochs": 3},
    ),
    "summaries, encoder-decoder, stopped early": Workload(
        _texts("summarization", "bart"),
        {"task": "summarization", **TAUGHT, **SHORT, "evaluation": {"every": 2, "patience": 2}},
        training={"epochs": 8, "learning_rate": 1e-12, "save_steps": 3},
    ),
    "summaries, decoder, LoRA": Workload(
        _texts("summarization", "gpt2"),
        {"task": "summarization", **ANCHORED, **SHORT},
        training={**SIX, "lora": {"rank": 4, "dropout": 0.1}},
    ),
    "translation, cached teacher": Workload(
        _texts("translation", "marian"), {"task": "translation", **CACHED, **SHORT}, training=SIX,
    ),
    "captions, anchored": Workload(_pictures, {"task": "image-captioning", **ANCHORED, **SHORT}, training=SIX),
    "speech by frames, teacher": Workload(
        _sounds("wav2vec2"), {"task": "speech-recognition", **TAUGHT, "objective": {"weight": 0.3}}, training=SIX,
    ),
    "speech by writing": Workload(
        _sounds("whisper"),
        {"task": "speech-recognition", "method": "fine-tuning", "model": "student", **SHORT},
        training=SIX,
    ),
    "texts, on-policy": Workload(
        _texts("text-generation", "llama"),
        {"task": "text-generation", **TAUGHT, "generation": {"max_new_tokens": 4, "on_policy": 0.5}},
        training=SIX,
    ),
    "sentiment, a budget": Workload(
        _reviews,
        {**SENTIMENT, **ANCHORED, "objective": {"weight": {"max_kl": 0.05}}, "data": {**SPLITS, "source": OLD}},
        training={"max_steps": 8, "save_steps": 3},
    ),
    "sentiment, replay and three streams": Workload(
        _reviews,
        {**SENTIMENT, **ANCHORED, "objective": {"weight": 0.7, "anchor_on": "both"},
         "data": {**SPLITS, "source": {**OLD, "train": "old-train.jsonl", "unlabeled": "old-texts.jsonl"},
                  "mix": {"source": 0.5, "source_unlabeled": 0.75}}},
        training={"epochs": 2, "save_steps": 2},
    ),
    "sentiment, two ranks": Workload(
        _reviews, {**SENTIMENT, **TAUGHT}, ranks=2, training={"epochs": 2, "batch_size": 2, "save_steps": 2},
    ),
}  # fmt: skip

ALL: dict[str, Workload] = {**WORKLOADS, "few steps": FEW, "few steps, cached": FEW_CACHED,
                            "few steps, workers": FEW_WORKERS}  # fmt: skip


def make(name: str, folder: str) -> None:
    """Makes a workload's files; for the server."""
    ALL[name].make(Path(folder))
