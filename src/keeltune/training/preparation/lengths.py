"""How long inputs and targets may be: of the recipe, the tokenizer and the model the smallest."""

from __future__ import annotations

from typing import Any

from keeltune.models import positions
from keeltune.recipe.generation_fields import MOST_NEW_TOKENS
from keeltune.tasks.task import Task
from keeltune.utils.errors import Problem, UserError, shown


def reading_length(requested: int | None, shape: Any, processor: Any, task_class: type[Task], where: str) -> int | None:
    """The smaller of the tokenizer's and the model's maximum, or what is requested, which must not be larger.

    `shape`: the model, or its skeleton. Pictures and sound are no tokens: only what is requested bounds them.
    """
    if task_class.reads != "text":
        return requested
    bounds = [positions.positions(shape), processor.model_max_length]
    bound = min((int(b) for b in bounds if b is not None and b < 1_000_000), default=None)
    if requested is not None and bound is not None and requested > bound:
        raise UserError(
            Problem(
                where,
                "max_length",
                shown(requested),
                f"at most {bound}, which is what the model and its tokenizer can read",
                f"max_length: {bound}, or a model that reads longer texts",
            )
        )
    return bound if requested is None else requested


BOUNDED = ("whisper",)
"""Architectures whose answers are bounded by what they hear at once, 30 seconds of speech: they write to their end,
however fast it is spoken, where the recipe names no other bound."""


def generation_length(requested: int | None, shape: Any, max_length: int | None) -> int:
    """The most tokens that are generated: no more than a decoder has places for, behind a prompt where it reads one."""
    if requested is None:
        bounded = positions.target_positions(shape) if shape.config.model_type in BOUNDED else None
        requested = bounded or MOST_NEW_TOKENS
    if getattr(shape.config, "is_encoder_decoder", False):
        return min(requested, positions.target_positions(shape) or requested)
    return requested if max_length is None or requested < max_length else max(1, max_length // 2)


def writing_length(requested: int | None, shape: Any, max_length: int | None) -> int | None:
    """The most tokens of a target: what is requested, or what a decoder can write; half of all where it reads too."""
    bound = positions.target_positions(shape)
    if not getattr(shape.config, "is_encoder_decoder", False):
        bound = None if max_length is None else max(2, max_length // 2)
    return min((b for b in (requested, bound) if b is not None), default=None)
