"""The formula inside a stock `transformers.Trainer`, on one process.

    python examples/stock_trainer.py MODEL TEACHER ROWS.jsonl OUTPUT

MODEL and TEACHER are folders of sequence classifiers with the same labels and tokenizer; a row is {"text", "label"}.
Two methods and one attribute are all it takes. `keeltune/trainer.py` adds what several processes, streams, resuming
and validation need.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification as Classifier
from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

import keeltune as kt


class AnchoredTrainer(Trainer):
    """`Trainer` whose loss is Σ CE / n + weight · Σ D / n, n the predictions of the whole optimizer step."""

    loss_is_scaled_for_ga = True  # `compute_loss` has divided already; without this, accumulation divides again

    def __init__(self, *args: Any, objective: kt.Objective, reference: kt.references.Reference, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.objective = objective
        self.reference = reference

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """A step's micro-batches, and the predictions in all of them, before any forward pass."""
        batches = list(islice(epoch_iterator, num_batches))
        return batches, torch.tensor(sum(len(batch["labels"]) for batch in batches), device=device)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """One micro-batch's share of the step's loss. The labels stay out of the model: its own loss is a mean."""
        inputs = dict(inputs)
        targets = inputs.pop("labels")
        n = len(targets) if num_items_in_batch is None else num_items_in_batch
        outputs = model(**inputs)
        student, reference = kt.Dense(outputs.logits), self.reference.rows({"inputs": inputs})
        loss = self.objective(kt.cross_entropy(student, targets), student, reference, counts=kt.Counts(n, n)).loss
        return (loss, outputs) if return_outputs else loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "teacher", "rows", "output"):
        parser.add_argument(name)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rate", type=float, default=5e-5)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model, teacher = Classifier.from_pretrained(args.model), Classifier.from_pretrained(args.teacher)
    if model.config.label2id != teacher.config.label2id:
        raise SystemExit(f"the teacher's labels are {teacher.config.label2id}, expected {model.config.label2id}")
    rows = [json.loads(line) for line in Path(args.rows).read_text(encoding="utf-8").splitlines()]
    examples = [{**tokenizer(r["text"], truncation=True), "label": model.config.label2id[r["label"]]} for r in rows]
    trainer = AnchoredTrainer(
        model,
        TrainingArguments(
            args.output,
            max_steps=args.steps,
            learning_rate=args.rate,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=examples,
        data_collator=DataCollatorWithPadding(tokenizer),
        objective=kt.Objective("reverse-kl", weight=1.0),
        reference=kt.references.Model(teacher, lambda outputs, batch: kt.Dense(outputs.logits)),
    )
    trainer.reference.model.to(trainer.args.device)  # the Trainer moved its own model there
    trainer.train()
    for entry in trainer.state.log_history:
        if "loss" in entry:
            print(f"step {entry['step']} loss {entry['loss']:.4f}")


if __name__ == "__main__":
    main()
