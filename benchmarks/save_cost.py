"""What a checkpoint costs: seconds to save, to verify and to go on from it, and their share of an epoch.

    python benchmarks/save_cost.py MODEL DATA.jsonl OUT [--task sentiment-analysis] [--rows 1024] [--batch 32] [--stock]

Trains one epoch of `rows` rows with a checkpoint every quarter of it, and reports the median seconds of a save
(weights, moments, best weights, manifest, until all is on the disk), of a verification, and of reading it. `--stock`:
the checkpoints that transformers' Trainer writes, by its own methods, for comparison; they are neither synced nor
verified.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import Trainer

from keeltune import recipe
from keeltune.runs import run
from keeltune.training import checkpoints
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.progress import Display


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def call(*given: Any, **how: Any) -> Any:
        start = time.perf_counter()
        result = function(*given, **how)
        seconds.append(time.perf_counter() - start)
        return result

    return call


@contextmanager
def in_place(owner: Any, name: str, function: Any) -> Iterator[None]:
    held = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, held)


def digest_speed(size: int = 1 << 28) -> float:
    """Bytes a second of SHA-256 on this machine."""
    content, start = bytes(size), time.perf_counter()
    hashlib.sha256(content).digest()
    return size / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--task", default="sentiment-analysis")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--stock", action="store_true")
    asked = parser.parse_args()
    shutil.rmtree(asked.out, ignore_errors=True)
    asked.out.mkdir(parents=True)
    with asked.data.open(encoding="utf-8") as stream:
        lines = [line for line, _ in zip(stream, range(asked.rows + 64), strict=False)]
    (asked.out / "train.jsonl").write_text("".join(lines[: asked.rows]), encoding="utf-8")
    (asked.out / "validation.jsonl").write_text("".join(lines[asked.rows :]), encoding="utf-8")
    steps = asked.rows // asked.batch
    given = recipe.from_dict({
        "task": asked.task, "method": "fine-tuning", "model": str(asked.model.absolute()), "output": "run",
        "data": {"train": "train.jsonl", "validation": "validation.jsonl"}, "max_length": asked.length,
        "training": {"epochs": 1, "batch_size": asked.batch, "precision": "auto", "save_steps": max(1, steps // 4),
                     "keep_checkpoints": True},
        "evaluation": {"every": max(1, steps // 2)},
    }, asked.out)  # fmt: skip
    saves: list[float] = []
    best: list[float] = []
    save = Trainer._save_checkpoint if asked.stock else KeelTrainer._save_checkpoint
    with (
        in_place(KeelTrainer, "_save_checkpoint", timed(save, saves)),
        in_place(checkpoints.BestWeights, "save", timed(checkpoints.BestWeights.save, best)),
    ):
        done = run.train(given, display=Display(quiet=True))
    epoch = done.result["training"]["seconds"]
    place = done.folder / checkpoints.FOLDER
    folder = max(place.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    report = {
        "saves": len(saves), "save_seconds": statistics.median(saves), "best_seconds": statistics.median(best),
        "epoch_seconds": epoch, "share_of_epoch": (sum(saves) + sum(best)) / epoch,
        "megabytes": sum(file.stat().st_size for file in folder.iterdir()) / 1e6, "sha256_GB_s": digest_speed() / 1e9,
    }  # fmt: skip
    if not asked.stock:
        verify: list[float] = []
        read: list[float] = []
        for _ in range(3):
            timed(checkpoints.verified, verify)(folder)
            timed(checkpoints.Checkpoint, read)(folder, 0)
        report |= {"verify_seconds": statistics.median(verify), "read_seconds": statistics.median(read)}
    json.dump({name: round(value, 3) for name, value in report.items()}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
