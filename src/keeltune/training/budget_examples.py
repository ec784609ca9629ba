"""The held-out examples on which a budget of divergence is measured."""

from __future__ import annotations

from dataclasses import replace

from keeltune.data.dataset import subset
from keeltune.tasks.common.example import Example
from keeltune.training import anchor_head
from keeltune.training.preparation.material import Material

MEASURED = 500
"""Held-out rows at most on which a budget of divergence is measured."""


def budget_examples(material: Material) -> list[Example]:
    """The rows on which a budget of divergence is measured, as the reference reads them: none is trained on."""
    recipe, rule = material.recipe, material.recipe.weight_spec()
    if isinstance(rule, float | int) or rule.max_kl is None:
        return []
    if recipe.anchors_generated:
        texts = [example for row in material.encoded["generated_validation"] for example in row]
        return [replace(texts[i], anchored=True) for i in subset(len(texts), MEASURED)]
    splits = {"validation": recipe.anchors_target, "source_validation": recipe.anchors_source}
    rows = [row for split, anchors in splits.items() if anchors for row in material.rows[split]]
    chosen = [rows[i] for i in subset(len(rows), MEASURED)]
    task, anchor_task = material.task, material.anchor_task
    if anchor_task is None:
        examples = [e for row in chosen for e in task.encode_for_all(row, scored=True)]
    else:
        encoded = [e for row in chosen for e in task.encode_scored(row, labelled=False)]
        examples = [anchor_head.unlabelled(anchor_task, e) for e in encoded]
    return [replace(example, anchored=True) for example in examples]
