"""What a run with two domains reports as `forgetting`: both domains before and after training, row by row, how far the
model's answers have moved from its start's, and how far the domains lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from keeltune.data import dataset
from keeltune.data.dataset import Row
from keeltune.evaluation import divergence, domain_shift
from keeltune.evaluation import forgetting as changes
from keeltune.evaluation.final_weights import FinalWeights
from keeltune.evaluation.scores import Scores
from keeltune.objective.formula import Objective
from keeltune.objective.references.model import Model
from keeltune.tasks.common.batches import by_length, to_device
from keeltune.tasks.common.example import Example
from keeltune.training.job import Job
from keeltune.utils.device import in_eval_mode
from keeltune.utils.json_lines import read_lines

COMPARED = 500
"""Rows of a domain on which the models' answers, and the domains themselves, are compared at most."""

SOURCE_SPLITS = ("source_unlabeled", "source_train", "source", "source_validation")
"""Where inputs of the old domain are, the most of them first."""

TEXTS = ("text", "text_pair", "context", "document", "source", "prompt")
"""Columns that are read, by whose words domains are told apart."""


def forgetting(
    job: Job,
    model: Any,
    folder: Path,
    before: Mapping[str, Scores | None],
    after: Mapping[str, Scores | None],
    final: FinalWeights,
) -> dict[str, Any] | None:
    """What `result.json` reports as `forgetting`; None where no rows of a source domain are named.

    {"source", "control", "target": what `analysis.forgetting.change` says of a split, "divergence": {"source",
    "target": {"reverse_kl", "forward_kl", "predictions"}} from the model before training, nats a prediction, "gap":
    how far the domains lie apart}.
    """
    material = job.material
    if not (material.rows["source"] or material.rows["source_validation"]):
        return None
    target = "test" if material.rows["test"] else "validation"
    splits = {"source": "source", "control": "source_validation", "target": target}
    report: dict[str, Any] = {}
    for name, split in splits.items():
        old, new = before[split], after[split]
        if old is None or new is None:
            report[name] = None
            continue
        lines = tuple(read_lines(part / f"{split}.jsonl") for part in (folder / "before", folder))
        lengths = [sum(e.length for e in row) for row in material.encoded[split]]
        clusters = material.recipe.evaluation.clusters
        change = changes.change(
            job.of(split, model)[0],
            material.rows[split],
            old,
            new,
            (lines[0], lines[1]),
            lengths=lengths,
            clusters=clusters,
        )
        report[name] = {"split": split, **change}
    domain = "source" if material.rows["source"] else "source_validation"
    report["divergence"] = {
        name: _divergences(job, model, final.source, split) for name, split in (("source", domain), ("target", target))
    }
    report["gap"] = gap(job, final.source)
    return report


def _divergences(job: Job, model: Any, source: Model | None, split: str) -> dict[str, Any] | None:
    """KL(θ ‖ ψ) and KL(ψ ‖ θ) on a split's rows, ψ the model before training."""
    examples = _sample(job, split)
    if source is None or not examples:
        return None
    directions = ("reverse-kl", "forward-kl")
    values, predictions = divergence.divergence(
        job.material.task,
        [Objective(name) for name in directions],
        model,
        source,
        examples,
        device=job.device,
        autocast=job.autocast,
    )
    measured = {name.replace("-", "_"): value for name, value in zip(directions, values, strict=True)}
    return measured | {"predictions": predictions}


def _sample(job: Job, split: str) -> list[Example]:
    encoded = job.material.encoded[split]
    return [example for i in dataset.subset(len(encoded), COMPARED) for example in encoded[i]]


def gap(job: Job, source: Model | None) -> dict[str, Any] | None:
    """How far the target is from the source: {"words", "features"}, each from 0 (the same) to 2; null where unknown."""
    material = job.material
    source_split = next((split for split in SOURCE_SPLITS if material.rows[split]), None)
    if source_split is None:
        return None
    splits = (source_split, "train" if material.rows["train"] else "unlabeled")
    chosen = [[material.rows[s][i] for i in dataset.subset(len(material.rows[s]), COMPARED)] for s in splits]
    texts = [_texts(rows, {column.name for column in material.task.columns if not column.label}) for rows in chosen]
    by_features = None
    if source is not None:
        old, new = (_features(job, source.model, _sample(job, split)) for split in splits)
        by_features = None if old is None or new is None else domain_shift.features(old, new)
    return {"words": domain_shift.words(*texts) if all(texts) else None, "features": by_features}


def _texts(rows: Sequence[Row], read: set[str]) -> list[str]:
    """What is read of each row, where it is text."""
    names = [name for name in TEXTS if name in read and rows and isinstance(rows[0].fields.get(name), str)]
    tokens = rows and isinstance(rows[0].fields.get("tokens"), list)
    if tokens:
        return [" ".join(map(str, row.fields["tokens"])) for row in rows]
    return [" ".join(str(row.fields.get(name, "")) for name in names) for row in rows] if names else []


@torch.inference_mode()
def _features(job: Job, model: Any, examples: Sequence[Example]) -> np.ndarray | None:
    """The mean of a model's last hidden states over each example's positions, [examples, H]; None if it shows none."""
    task, means_of = job.material.task, dict[int, np.ndarray]()
    with in_eval_mode(model):
        for indices in by_length(examples, divergence.BATCH):
            batch = to_device(task.collate([examples[i] for i in indices]), job.device)
            with_states = {**batch, "inputs": {**batch["inputs"], "output_hidden_states": True}}
            with job.autocast():
                outputs = task.forward(model, with_states)
            calls = getattr(outputs, "outputs", [outputs])  # of a vocabulary head: each forward pass by itself
            states = getattr(calls[0], "encoder_last_hidden_state", None) if len(calls) == 1 else None
            if states is None and len(calls) == 1:
                states = (getattr(calls[0], "hidden_states", None) or [None])[-1]
            if states is None:
                return None
            mask = batch["inputs"].get("attention_mask")
            fits = mask is not None and mask.shape == states.shape[:2]
            weight = mask[..., None].to(states.dtype) if fits else torch.ones_like(states[..., :1])
            means = (states * weight).sum(1) / weight.sum(1).clamp_min(1)
            means_of |= dict(zip(indices, means.float().cpu().numpy(), strict=True))
    return np.stack([means_of[i] for i in range(len(examples))])
