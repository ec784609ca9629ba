"""What keeltune costs beside a hand-written loop and the stock Trainer, in one process, in turns.

    python benchmarks/step_time.py DATA.jsonl [--model FOLDER] [--rows 2048] [--rounds 3]

All three see the same micro-batches in the same order, in bf16 under autocast, with the same optimizer, schedule and
clipping; each round starts from the same weights, and the order of the three changes from round to round. Then the
stock Trainer as it comes: fp32, bf16, bf16 with its own length grouping. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import data_sets
import torch
import transformers
from torch.utils.data import DataLoader, Dataset
from transformers import (
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

from keeltune import recipe
from keeltune.cli import demo
from keeltune.recipe.training_fields import Training
from keeltune.training import build
from keeltune.training.arguments import training_arguments
from keeltune.training.preparation import prepare
from keeltune.training.step_loss import StepLoss
from keeltune.training.trainer import KeelTrainer

RATE = 5e-5


class Same(Dataset[Any]):
    """The plan's micro-batches as the stock Trainer wants them."""

    def __init__(self, plan: Any):
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, i: int) -> dict[str, Any]:
        batch = self.plan[i]
        return {**batch["inputs"], "labels": batch["targets"]}


def only(items: list[Any]) -> Any:
    return items[0]


def groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Weight decay on matrices only, as the Trainer has it."""
    named = list(model.named_parameters())
    decayed = [p for n, p in named if "bias" not in n and "LayerNorm" not in n]
    return [
        {"params": decayed, "weight_decay": 0.01},
        {"params": [p for n, p in named if "bias" in n or "LayerNorm" in n], "weight_decay": 0.0},
    ]


def bare_loop(model: Any, plan: Any) -> float:
    optimizer = torch.optim.AdamW(groups(model), lr=RATE, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, len(plan) // 10, len(plan))
    model.train()
    start = time.perf_counter()
    for batch in DataLoader(Same(plan), batch_size=1, collate_fn=only):
        labels = batch.pop("labels")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(**batch).logits
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


def ours(model: Any, job: Any, folder: str) -> float:
    training = Training(epochs=1, learning_rate=RATE, save_strategy="no")
    arguments = training_arguments(Path(folder), training, batch_size=32, every=None, seed=0)
    loss = StepLoss(job.material.task, job.objective, autocast=job.autocast)
    trainer = KeelTrainer(model, arguments, job.plan, loss)
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


def stock(model: Any, data: Any, folder: str, collate: Any, **options: Any) -> float:
    arguments = TrainingArguments(
        output_dir=folder, num_train_epochs=1, learning_rate=RATE, weight_decay=0.01, warmup_steps=0.1,
        save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=10,
        **{"per_device_train_batch_size": 32, "bf16": True, "use_cpu": True, **options},
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=data, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=demo.encoder_path())
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        train = Path(folder) / "train.jsonl"
        lines = options.data.read_text("utf-8").split("\n")  # a text may hold U+2028, which ends no row
        data_sets.written(train, [line for line in lines if line][: options.rows])
        values = {
            "task": "text-classification", "method": "fine-tuning", "model": options.model, "output": "out",
            "data": {"train": "train.jsonl", "validation": None}, "training": {"precision": "bf16"},
        }  # fmt: skip
        job = build.build(prepare.prepare(recipe.from_dict(values, folder)))
        start_weights = copy.deepcopy(job.model)
        runs = {
            "hand-written loop": lambda m: bare_loop(m, job.plan),
            "keeltune": lambda m: ours(m, job, folder),
            "stock Trainer, same batches": lambda m: stock(
                m, Same(job.plan), folder, only, per_device_train_batch_size=1
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        bare_loop(copy.deepcopy(start_weights), job.plan)  # warm-up, not counted
        for number in range(options.rounds):
            names = list(runs)[number % 3 :] + list(runs)[: number % 3]
            for name in names:
                seconds[name].append(runs[name](copy.deepcopy(start_weights)))
                print(f"round {number + 1}: {name}: {seconds[name][-1]:.2f} s", flush=True)
        steps, rows = len(job.plan), len(job.plan.examples)
        for name, times in seconds.items():
            ratio = [a / b for a, b in zip(times, seconds["hand-written loop"], strict=True)]
            middle = statistics.median(times)
            print(f"{name}: {1000 * middle / steps:.1f} ms a step, {rows / middle:.0f} rows/s, ", end="")
            print(f"ratio to the loop {statistics.median(ratio):.3f} ({min(ratio):.3f} to {max(ratio):.3f})")
        encoded = [{**e.inputs, "labels": e.targets[0]} for e in job.plan.examples]
        collate = DataCollatorWithPadding(job.material.task.processor)
        for name, how in {
            "stock Trainer, fp32": {"bf16": False},
            "stock Trainer, bf16": {},
            "stock Trainer, bf16, length grouping": {"train_sampling_strategy": "group_by_length"},
        }.items():
            taken = stock(copy.deepcopy(start_weights), encoded, folder, collate, **how)
            print(f"{name}: {rows / taken:.0f} rows/s", flush=True)


if __name__ == "__main__":
    main()
