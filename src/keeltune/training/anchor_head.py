"""A second head on the student's body, where the new labels are others than the old ones.

    objective: {anchor_head: source}       the source model's own head: D on its labels, CE on the new ones
    objective: {anchor_head: masked-lm}    the pretrained head of masked tokens: D on words that are hidden

The head is frozen, the body is the student's, and the reference is the same head on the source model's body: the
student is held where its features would make the old head answer otherwise. Source: Li & Hoiem 2016, Learning without
Forgetting, https://arxiv.org/abs/1606.09282 (whose old head is trained along).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from keeltune.models import loading
from keeltune.objective.predictions import IGNORED
from keeltune.objective.references.model import Model
from keeltune.tasks.common.example import Example
from keeltune.tasks.families.masked_lm import MaskedLm
from keeltune.tasks.task import Task
from keeltune.training.preparation.material import Material
from keeltune.utils.errors import Problem, UserError


@dataclass
class AnchorHead:
    """The second head: how its predictions are read, and itself on the body that is trained."""

    task: Task
    model: Any


def collate(anchor_task: Task, examples: Sequence[Example]) -> dict[str, Any] | None:
    """The anchored examples as the second head reads them; None where there is none."""
    anchored = [unlabelled(anchor_task, example) for example in examples if example.anchored]
    return anchor_task.collate(anchored) if anchored else None


def unlabelled(anchor_task: Task, example: Example) -> Example:
    """An example of the new task as one of the old head's, which has no label there."""
    if isinstance(anchor_task, MaskedLm):
        return anchor_task.of(example)
    settings = anchor_task.settings
    count = len(settings.labels) if settings.multi_label else example.predictions
    return replace(example, targets=[IGNORED] * count, weights=[1.0] * count, count=None)


def make(
    material: Material, student: loading.Loaded, autocast: Callable[[], AbstractContextManager[Any]], device: str
) -> tuple[AnchorHead, Model]:
    """The second head on the student's body, and the reference: the same head on the source model's body."""
    task = material.anchor_task
    assert task is not None
    head, reference_model = (_load(material, task) for _ in range(2))
    prefix = student.model.base_model_prefix
    if not hasattr(student.model, prefix) or not hasattr(head, head.base_model_prefix):
        where = material.recipe.where("objective")
        found, expected = f"{type(student.model).__name__}, whose body stands in no module", "a body and a head apart"
        raise UserError(Problem(where, "objective.anchor_head", found, expected, "take another architecture"))
    body = getattr(student.model, prefix)
    setattr(head, head.base_model_prefix, body)
    head.tie_weights()  # a decoder of masked tokens to the embeddings of this body
    trained = {id(weight) for weight in body.parameters()}
    for weight in head.parameters():
        weight.requires_grad_(id(weight) in trained)
    for name, child in head.named_children():
        child.train(name == head.base_model_prefix and student.model.training)
    reference = Model(reference_model.to(device), task.rows, autocast, forward=task.forward)
    return AnchorHead(task, head.to(device)), reference


def _load(material: Material, task: Task) -> Any:
    recipe, settings = material.recipe, task.settings
    auto_model = task.auto_models[0] if isinstance(task, MaskedLm) else material.auto_model
    head = loading.Head(settings.labels, settings.multi_label)
    loaded = loading.load(material.source, auto_model, head, where=recipe.where("model"), field="model")
    if loaded.fresh:
        found = f"{material.source} without the weights {', '.join(loaded.fresh[:3])}"
        fix = "take a model that was saved with them, or another anchor"
        raise UserError(
            Problem(recipe.where("objective"), "objective.anchor_head", found, "a trained head to hold", fix)
        )
    return loaded.model
