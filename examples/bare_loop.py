"""The formula in a loop of your own: no Trainer, no recipe, no command of keeltune.

    python examples/bare_loop.py MODEL TEACHER ROWS.jsonl

MODEL and TEACHER are folders of sequence classifiers with the same labels and tokenizer; a row is {"text", "label"}.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification as Classifier
from transformers import AutoTokenizer

import keeltune as kt

BATCHES, ROWS = 2, 8  # a step is two micro-batches of eight rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("teacher")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--weight", type=float, default=1.0)
    args = parser.parse_args()

    torch.manual_seed(0)
    random.seed(0)
    rows = [json.loads(line) for line in args.rows.read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = Classifier.from_pretrained(args.model).train()
    frozen = Classifier.from_pretrained(args.teacher)
    if model.config.label2id != frozen.config.label2id:
        raise SystemExit(f"the teacher's labels are {frozen.config.label2id}, expected {model.config.label2id}")

    teacher = kt.references.Model(frozen, lambda outputs, batch: kt.Dense(outputs.logits))
    objective = kt.Objective("reverse-kl", weight=args.weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate)

    def collate(chosen: list[dict[str, str]]) -> dict[str, torch.Tensor]:
        inputs = tokenizer([row["text"] for row in chosen], padding=True, truncation=True, return_tensors="pt")
        return {"inputs": inputs, "targets": torch.tensor([model.config.label2id[row["label"]] for row in chosen])}

    for step in range(1, args.steps + 1):
        batches = [collate(random.sample(rows, ROWS)) for _ in range(BATCHES)]
        n = sum(len(batch["targets"]) for batch in batches)  # count the whole step first, divide once
        loss = 0.0
        for batch in batches:
            student = kt.Dense(model(**batch["inputs"]).logits)  # [N, C]
            cross_entropy = kt.cross_entropy(student, batch["targets"])  # a sum, never a mean
            terms = objective(cross_entropy, student, teacher.rows(batch), counts=kt.Counts(n, n))
            terms.loss.backward()  # the micro-batches' losses add up to the step's
            loss += terms.loss.item()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step} loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
