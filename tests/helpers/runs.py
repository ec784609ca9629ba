"""Small runs of sentiment analysis: their rows, their recipe, and what is read of them afterwards."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from keeltune import recipe
from keeltune.models import loading
from keeltune.runs import run, run_folder
from keeltune.utils.progress import Display
from tests.helpers.models import WORDS, word_tokenizer

QUIET = Display(quiet=True)


def reviews(count: int, seed: int) -> list[dict]:
    """Texts of the tiny models' words, no two alike; "good" and "fine" decide."""
    drawn, rows = random.Random(seed), {}
    while len(rows) < count:
        good = len(rows) % 2
        words = [w for w in drawn.choices(WORDS, k=drawn.randint(2, 9)) if w not in ("good", "fine", "bad", "dull")]
        words.insert(drawn.randint(0, len(words)), drawn.choice(["good", "fine"] if good else ["bad", "dull"]))
        rows[" ".join(words)] = "positive" if good else "negative"
    return [{"text": text, "label": label} for text, label in rows.items()]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def make_data(folder: Path) -> Path:
    rows = reviews(90, seed=1)
    for name, part in (("train", rows[:24]), ("validation", rows[24:36]), ("test", rows[36:56]), ("old", rows[56:70])):
        write_rows(folder / f"{name}.jsonl", part)
    write_rows(folder / "pool.jsonl", [{"text": row["text"]} for row in rows[70:]])
    return folder


def spec_of(method: str, model: Path, **changes) -> dict:
    return {
        "task": "sentiment-analysis",
        "method": method,
        "model": str(model),
        "data": {"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"},
        "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32", "logging_steps": 1},
        "output": "out",
    } | changes


def train(spec: dict, folder: Path, **changes) -> run_folder.Run:
    return run.train(recipe.from_dict({**spec, **changes}, folder), display=QUIET)


def weights(finished: run_folder.Run) -> dict[str, torch.Tensor]:
    return load_file(finished.model / "model.safetensors")


def furthest(a: run_folder.Run, b: run_folder.Run) -> float:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


def stock_probabilities(model: Path, texts: list[str], multi_label: bool = False) -> np.ndarray:
    """What a user computes who has transformers and no keeltune."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    classifier = AutoModelForSequenceClassification.from_pretrained(model).eval()
    with torch.no_grad():
        logits = torch.cat([classifier(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    return (logits.sigmoid() if multi_label else logits.softmax(-1)).double().numpy()


def other_order(folder: Path, copy: Path) -> Path:
    """The same classifier, its labels listed the other way round."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config |= {"id2label": {"0": "positive", "1": "negative"}, "label2id": {"positive": 0, "negative": 1}}
    (copy / "config.json").write_text(json.dumps(config))
    stored = load_file(copy / "model.safetensors")
    stored |= {name: stored[name].flip(0).contiguous() for name in ("classifier.weight", "classifier.bias")}
    save_file(stored, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def other_tokenizer(folder: Path, copy: Path) -> Path:
    """The same classifier, its vocabulary numbered otherwise and its embeddings with it."""
    shutil.copytree(folder, copy)
    theirs = word_tokenizer(words=WORDS[::-1])
    theirs.save_pretrained(copy)
    stored, ours = load_file(copy / "model.safetensors"), word_tokenizer().get_vocab()
    name = "bert.embeddings.word_embeddings.weight"
    order = [ours[token] for token, _ in sorted(theirs.get_vocab().items(), key=lambda pair: pair[1])]
    stored[name] = stored[name][order].contiguous()
    save_file(stored, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def encoder(folder: Path, tiny) -> Path:
    """A pretrained model as it is published: no head."""
    with loading.quiet_transformers():
        AutoModel.from_pretrained(tiny("bert")).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    names = {"id2label": {"0": "negative", "1": "positive"}, "label2id": {"negative": 0, "positive": 1}}
    (folder / "config.json").write_text(json.dumps(config | names))
    return folder


def several(rows: list[dict]) -> list[dict]:
    """Labels as sets: the sentiment, and whether the text is long; some rows have none."""
    return [
        {"text": row["text"],
         "label": [x for x, on in (("glad", row["label"] == "positive"), ("lengthy", len(row["text"]) > 25)) if on]}
        for row in rows
    ]  # fmt: skip


def texts_in(folder: Path) -> list[str]:
    (file,) = (folder / ".cache").glob("*/targets.jsonl")
    return [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()[1:]]
