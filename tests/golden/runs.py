"""Short trainings whose losses are kept in `losses.json`: each task and both kinds of speech model, each method.

What could come out otherwise on another machine is left out: no dropout (its masks are the random generator's of the
build), plain SGD (Adam divides by the size of a gradient, and so makes much of a rounding where that is near 0),
float32, and one thread.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import keeltune as kt
from keeltune import recipe
from keeltune.utils.progress import Display
from tests.helpers.families import METHODS, spec

FILE = Path(__file__).with_name("losses.json")
TERMS = ("loss", "cross_entropy", "divergence")
MODELS = [
    ("text-classification", "bert"), ("sentiment-analysis", "gpt2"), ("semantic-role-labeling", "bert"),
    ("question-answering", "roberta"), ("translation", "marian"), ("summarization", "bart"),
    ("text-generation", "llama"),
    ("image-captioning", "vit gpt2"), ("speech-recognition", "wav2vec2"), ("speech-recognition", "whisper"),
]  # fmt: skip
CELLS = [(task, architecture, method) for task, architecture in MODELS for method in METHODS]


def name_of(task: str, architecture: str, method: str) -> str:
    return f"{task}, {architecture}, {method}"


def without_dropout(values: Any) -> Any:
    """A model's configuration, with 0 for every probability of leaving something out."""
    if isinstance(values, dict):
        return {
            name: 0.0 if "drop" in name and isinstance(value, float) else without_dropout(value)
            for name, value in values.items()
        }
    return values


def losses(folder: Path, task: str, architecture: str, method: str) -> list[dict[str, float]]:
    """Loss, cross-entropy and divergence (where there is one) of each of six steps, in nats a prediction."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        given = spec(folder, task, architecture, method)
        for model in ("student", "teacher"):
            if (file := folder / model / "config.json").is_file():
                file.write_text(json.dumps(without_dropout(json.loads(file.read_text("utf-8")))), encoding="utf-8")
        given["data"] = {"train": "rows.jsonl"}
        given["training"] |= {"optim": "sgd", "learning_rate": 0.1, "logging_steps": 1}
        given["training"].pop("save_steps")
        run = kt.train(recipe.from_dict({**given, "output": "out"}, folder), display=Display(quiet=True))
    finally:
        torch.set_num_threads(threads)
    lines = (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [entry for entry in map(json.loads, lines) if "loss" in entry]
    return [{term: entry[term] for term in TERMS if term in entry} for entry in entries]
