"""The streams of a recipe as a plan: which rows a step takes, which of them carry D, and how they become a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from keeltune.objective.host_counts import with_counts
from keeltune.tasks.common.example import NOTE_SAMPLE, Example
from keeltune.tasks.common.stored_examples import anchored_as
from keeltune.tasks.task import Task
from keeltune.training import anchor_head
from keeltune.training.batch_plan import Plan, Stream
from keeltune.training.preparation.material import Material


def training_plan(material: Material) -> Plan:
    """The labelled rows, or the unlabelled ones where there are none, and each other stream beside them."""
    recipe, examples = material.recipe, material.examples
    step_size = material.batch_size * material.micro_batches
    anchored = _anchored_splits(material)
    soft = recipe.data.unlabeled_as == "distribution"

    def stream(split: str) -> Sequence[Example]:
        return anchored_as(examples[split], anchored.get(split, soft))

    main = stream("train") or stream("unlabeled")
    streams = [
        Stream(split.replace("_", "-"), stream(split), ratio * step_size)
        for split, ratio in material.stream_ratios.items()
    ]
    collate: Callable[[Sequence[Example]], dict[str, Any]] = partial(
        collate_for_reference, material.task, material.anchor_task
    )
    if ratio := recipe.generation.on_policy:
        streams.append(Stream("on-policy", _to_be_sampled(material), ratio * step_size))
        collate = _uncollated
    return Plan(
        main,
        streams,
        batch_size=material.batch_size,
        micro_batches=material.micro_batches,
        seed=recipe.seed,
        collate=collate,
        whole=not material.task.separable,
    )


def collate_for_reference(task: Task, anchor_task: Task | None, examples: Sequence[Example]) -> dict[str, Any]:
    """A micro-batch, with the rows that carry D as the reference reads them where that is not the batch itself."""
    if anchor_task is None:
        return with_counts(task.collate_anchored(examples), task.counts)
    anchored_batch = anchor_head.collate(anchor_task, examples)
    batch = task.collate(examples) | ({} if anchored_batch is None else {"anchored_batch": anchored_batch})
    return with_counts(batch, task.counts)


def _anchored_splits(material: Material) -> dict[str, bool]:
    """Whether the rows of a split carry D; those that are not named carry it as the recipe's `unlabeled_as` says."""
    recipe = material.recipe
    soft = recipe.data.unlabeled_as == "distribution"  # else, at weight 0, the reference has said all that it will
    anchored = recipe.reference_spec() is not None and not recipe.only_writes()
    anchored = anchored and (soft or recipe.weight_spec() != 0)
    return {
        "train": anchored and recipe.anchors_target,
        "source_train": False,
        "source_unlabeled": anchored,
        "generated": anchored,
    }


def _to_be_sampled(material: Material) -> list[Example]:
    """The inputs to which the student writes a text of its own in the step that they are in."""
    rows = material.rows["unlabeled"] or material.rows["train"]
    examples = [e for row in rows for e in material.task.encode_scored(row, labelled=False)]
    return [replace(e, anchored=True, notes={**e.notes, NOTE_SAMPLE: True}) for e in examples]


def _uncollated(examples: Sequence[Example]) -> dict[str, Any]:
    """A micro-batch of which some texts are still to be sampled: the trainer collates when they are."""
    return {"examples": list(examples)}
