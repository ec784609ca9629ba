"""Whether a head fits the labels: that of a reference, and the student's own where it is the reference too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keeltune.data.labels import known_names
from keeltune.models import loading
from keeltune.recipe.fields import Recipe
from keeltune.utils.errors import Problem, UserError, shown

NEW = "a new model"
"""What stands for the source of a model that starts from random weights."""


def check_student_head(
    recipe: Recipe, source: str, config: Any, head: list[str] | None, names: list[str], auto_model: str
) -> None:
    """The model as it was before training can be the reference only if its head knows these labels."""
    where = recipe.where("method")
    if source == NEW:
        raise UserError(no_trained_head(source, ["all weights"], where))
    if missing := loading.untrained_head(source, config, auto_model):
        raise UserError(no_trained_head(source, missing, where))
    if names and known_names(head, names) != names:
        raise UserError(other_labels(where, source, head or [], names))


def no_trained_head(source: str, missing: Sequence[str], where: str) -> Problem:
    return Problem(
        where,
        "reference",
        f"{shown(source)} has no trained head for these labels: {', '.join(missing)} would be random",
        "a reference whose task head was trained; staying near a random head teaches noise",
        "fine-tune that model on the source domain first (method: fine-tuning), then name its run here",
    )


def other_labels(where: str, source: str, names: Sequence[str], labels: Sequence[str]) -> Problem:
    return Problem(
        where,
        "reference",
        f"{shown(source)} with the labels {', '.join(names[:20]) or 'none'}",
        f"the labels {', '.join(labels[:20])} (in any order)",
        "take a reference trained on these labels, or map the data's names to its names with data.labels; cross-domain "
        "can also hold the old head beside the new one (objective.anchor_head: source), or the pretrained head of "
        "masked tokens (masked-lm)",
    )
