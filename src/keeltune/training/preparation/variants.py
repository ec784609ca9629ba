"""Variants of texts, on which only the divergence is computed: which tasks have them, and how they join the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keeltune.data import augmentation
from keeltune.data.dataset import Row
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task

REASONS = {
    "positions": "the answer is a part of the text, and could be the part that is left out",
    "tokens": "what is written must follow the whole text",
    "labels": "each word has a label of its own",
    "numbers": "a number is of the text as it stands",
}
"""Why a task's rows have no variants, by what its predictions choose among."""


def why_no_variants(task: type[Task]) -> str | None:
    """Why a task's rows cannot be varied; None where they can."""
    if task.whole_texts:
        return None
    return REASONS[task.choices] if task.reads == "text" else f"what is read is {task.reads}, not text"


def variant_rows(recipe: Recipe, task_class: type[Task], rows: Mapping[str, Sequence[Row]]) -> list[Row]:
    """The variants of the labelled and the unlabelled rows, each text once; none where the recipe wants none."""
    spec = recipe.data.augment
    if not spec:
        return []
    originals = {row.key: row for row in [*rows["train"], *rows["unlabeled"]]}.values()
    return [variant for row in originals for variant in augmentation.variants(row, task_class, spec, recipe.seed)]
