"""What is mutated: for each reader some whole files, and how `keeltune check` reads one of them."""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq

from keeltune import recipe as recipes
from keeltune.cli.recipe_check import check_recipe
from keeltune.models import configuration, loading, processors
from keeltune.recipe.fields import Recipe
from keeltune.training.preparation.prepare import prepare
from keeltune.training.student import initial_student
from keeltune.utils.terminal import Terminal
from tests.bad_inputs.fuzz import structures
from tests.bad_inputs.fuzz.mutations import Structure, json_lines, json_text
from tests.helpers import families

ARCHITECTURES = {
    "sentiment-analysis": "bert", "question-answering": "bert", "semantic-role-labeling": "bert",
    "translation": "marian", "text-generation": "gpt2", "image-captioning": "vit gpt2", "speech-recognition": "wav2vec2",
}  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """A whole file. `read(data)` reads a mutated one in its place; `structure` mutates it with knowledge of its format."""

    name: str
    data: bytes
    read: Callable[[bytes], Any]
    structure: Structure | None = None


@dataclass
class Desk:
    """A folder for each task with a small random model, its rows and its recipe; made once."""

    folder: Path
    made: dict[str, Recipe] = field(default_factory=dict)

    def of(self, task: str) -> Recipe:
        if task not in self.made:
            place = self.folder / task
            spec = families.spec(place, task, ARCHITECTURES[task], "fine-tuning") | {"output": "run"}
            spec["data"] = {"train": "rows.jsonl"}
            spec["training"] = {"max_steps": 1, "batch_size": 1, "precision": "fp32"}
            (place / "recipe.yaml").write_text(json.dumps(spec))
            self.made[task] = recipes.load(place / "recipe.yaml")
        return self.made[task]


def check(recipe: Recipe) -> None:
    """What `keeltune check` does with a recipe."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        check_recipe(recipe, Terminal(file=nowhere))


@contextmanager
def one_model() -> Iterator[None]:
    """Inside, a model folder's configuration, processor, skeleton and weights are read once: only the data changes."""
    kept: dict[Any, Any] = {}

    def once(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(source: Any, *rest: Any) -> Any:
            key = (name, getattr(source, "name_or_path", source))
            if key not in kept:
                kept[key] = function(source, *rest)
            return kept[key]

        return call

    with (
        patch.object(loading, "skeleton", once("skeleton", loading.skeleton)),
        patch.object(loading, "read_config", once("config", loading.read_config)),
        patch.object(configuration, "read_config", once("config", loading.read_config)),
        patch.object(loading, "check_weights", once("weights", loading.check_weights)),
        patch.object(loading, "untrained_head", once("head", loading.untrained_head)),
        patch.object(processors, "read_processor", once("processor", processors.read_processor)),
    ):
        yield


def rows_in(desk: Desk, tasks: tuple[str, ...], ending: str, write: Callable[[list[dict[str, Any]]], bytes],
            structure: Structure) -> list[Seed]:  # fmt: skip
    """The rows of each of these tasks, as a file of this ending."""
    seeds = []
    for task, bad_rows in itertools.product(tasks, ("refuse", "skip")):
        recipe = desk.of(task)
        rows = [json.loads(line) for line in (recipe.folder / "rows.jsonl").read_text().splitlines()][:6]
        file = recipe.folder / f"fuzzed{ending}"
        changed = recipes.load(recipe.folder / "recipe.yaml", [f"data.train={file.name}", f"data.bad_rows={bad_rows}"])

        def read(data: bytes, file: Path = file, recipe: Recipe = changed) -> None:
            file.write_bytes(data)
            check(recipe)

        seeds.append(Seed(f"{task}, {bad_rows}", write(rows), read, structure))
    return seeds


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_table(rows: list[dict[str, Any]]) -> bytes:
    import csv

    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(rows[0])
    writer.writerows([v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in rows)
    return sink.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, write_page_checksum=True)
    return sink.getvalue()


TEXTUAL = ("sentiment-analysis", "question-answering", "semantic-role-labeling", "text-generation", "translation")


def json_seeds(desk: Desk) -> list[Seed]:
    seeds = rows_in(desk, TEXTUAL, ".jsonl", as_lines, json_lines)
    array = rows_in(desk, ("sentiment-analysis",), ".json", lambda rows: json.dumps(rows).encode(), json_text)
    talks = [{"messages": [{"role": r, "content": c} for r, c in (("user", f"is it {n}?"), ("assistant", "it is"))]}
             for n in range(4)]  # fmt: skip
    chats = rows_in(desk, ("text-generation",), ".json", lambda rows: as_lines(talks), json_lines)
    return [*seeds, *array, *chats]


def csv_seeds(desk: Desk) -> list[Seed]:
    return rows_in(desk, TEXTUAL, ".csv", as_table, structures.table)


def parquet_seeds(desk: Desk) -> list[Seed]:
    return rows_in(desk, TEXTUAL, ".parquet", as_parquet, structures.parquet)


def media_seeds(desk: Desk, task: str, files: dict[str, bytes], structure: Structure) -> list[Seed]:
    """One picture or recording among sound ones."""
    recipe = desk.of(task)
    rows = [json.loads(line) for line in (recipe.folder / "rows.jsonl").read_text().splitlines()][:2]
    column = "image" if task == "image-captioning" else "audio"
    seeds = []
    for name, data in files.items():
        changed = recipes.load(recipe.folder / "recipe.yaml", [f"data.train={name}.jsonl"])
        (recipe.folder / f"{name}.jsonl").write_bytes(as_lines([rows[0], {**rows[1], column: name}]))

        def read(data: bytes, file: Path = recipe.folder / name, recipe: Recipe = changed) -> None:
            file.write_bytes(data)
            check(recipe)

        seeds.append(Seed(name, data, read, structure))
    return seeds


def wav_seeds(desk: Desk) -> list[Seed]:
    import numpy as np
    import soundfile

    from tests.helpers.speakers import RATE, tone

    files = {}
    for kind in ("PCM_16", "PCM_24", "FLOAT", "ULAW"):
        sink = io.BytesIO()
        sound = tone("ab", 1, 0.5)
        soundfile.write(sink, np.stack([sound, sound], 1) if kind == "PCM_24" else sound, RATE, kind, format="WAV")
        files[f"{kind}.wav"] = sink.getvalue()
    return media_seeds(desk, "speech-recognition", files, structures.wav)


def png_seeds(desk: Desk) -> list[Seed]:
    from tests.helpers.captioners import draw

    files = {}
    for mode in ("RGB", "RGBA", "P", "L", "1", "I;16"):
        sink = io.BytesIO()
        picture = draw("red", "disc")
        (picture.convert("L").convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)).save(
            sink, "PNG"
        )
        files[f"{mode.replace(';', '')}.png"] = sink.getvalue()
    return media_seeds(desk, "image-captioning", files, structures.png)


def recipe_seeds(desk: Desk) -> list[Seed]:
    whole = {
        "fine-tuning": "task: sentiment-analysis\nmethod: fine-tuning\nmodel: student\noutput: run\n"
        "data:\n  train: rows.jsonl\n  validation: 0.2\n  labels: [negative, positive]\n  columns: {text: text}\n"
        "training: {epochs: 1, batch_size: 2, learning_rate: 1.0e-4, precision: fp32, seed: 1, lora: {rank: 2}}\n"
        "evaluation: {every: auto, rows: 10, patience: 2}\nmax_length: 16\n",
        "distillation": "task: sentiment-analysis\nmethod: distillation\nmodel: student\nreference: {model: student, from: online}\n"
        "output: run\ndata: {train: rows.jsonl, validation: rows.jsonl, unlabeled: rows.jsonl, mix: {unlabeled: 1.0}, bad_rows: skip}\n"
        "objective: {weight: 0.5, divergence: {name: jensen-shannon, beta: 0.5}, temperature: 2.0}\n"
        "training: {max_steps: 3, tokens_per_batch: 64, gradient_accumulation_steps: 2}\n",
        "cross-domain": "task: sentiment-analysis\nmethod: cross-domain\nmodel: student\noutput: run\n"
        "data:\n  train: rows.jsonl\n  source: {train: rows.jsonl, test: rows.jsonl, unlabeled: rows.jsonl}\n  class_weights: balanced\n"
        "objective:\n  weight: {confidence: 0.999}\n  anchor_on: both\n"
        "training: {epochs: 2, l2_sp: 0.1, lr_scheduler_type: cosine}\nreport: {language: en}\n",
    }  # fmt: skip
    folder = desk.of("sentiment-analysis").folder

    def read(data: bytes) -> None:
        (folder / "fuzzed.yaml").write_bytes(data)
        check(recipes.load(folder / "fuzzed.yaml"))

    return [Seed(name, text.encode(), read, structures.recipe) for name, text in whole.items()]


def model_seeds(desk: Desk, file: str, structure: Structure) -> list[Seed]:
    """A file of a model folder; what `check` lets pass must load too."""
    seeds = []
    for task in ("sentiment-analysis", "question-answering", "text-generation", "translation", "speech-recognition"):
        place = Desk(desk.folder / f"of-{file}")
        recipe = place.of(task)
        path = recipe.folder / "student" / file
        data = path.read_bytes()

        def read(data: bytes, path: Path = path, recipe: Recipe = recipe) -> None:
            path.write_bytes(data)
            check(recipe)
            with loading.quiet_transformers():
                initial_student(prepare(recipe))

        seeds.append(Seed(task, data, read, structure))
    return seeds


def safetensors_seeds(desk: Desk) -> list[Seed]:
    return model_seeds(desk, "model.safetensors", structures.safetensors)


def config_seeds(desk: Desk) -> list[Seed]:
    return model_seeds(desk, "config.json", json_text)


READERS: dict[str, Callable[[Desk], list[Seed]]] = {
    "recipe": recipe_seeds, "json": json_seeds, "csv": csv_seeds, "parquet": parquet_seeds, "wav": wav_seeds,
    "png": png_seeds, "safetensors": safetensors_seeds, "config": config_seeds,
}  # fmt: skip

OF_ONE_MODEL = ("recipe", "json", "csv", "parquet", "wav", "png")
"""Those whose files are no model's, so that the model need not be read again for each."""
