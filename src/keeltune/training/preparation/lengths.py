"""How long inputs and targets may be: of the recipe, the tokenizer and the model the smallest."""

from __future__ import annotations

from typing import Any

from keeltune.models import loading
from keeltune.tasks.task import Task
from keeltune.utils.errors import Problem, UserError, shown


def reading_length(
    requested: int | None, config: Any, processor: Any, task_class: type[Task], auto_model: str, where: str
) -> int | None:
    """The smaller of the tokenizer's and the model's maximum, or what is requested, which must not be larger.

    Pictures and sound are no tokens: only what is requested bounds them.
    """
    if task_class.reads != "text":
        return requested
    shape = loading.skeleton(config, auto_model, where, "model")
    bounds = [loading.positions(shape), processor.model_max_length]
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


def writing_length(requested: int | None, config: Any, max_length: int | None) -> int | None:
    """The most tokens of a target: what is requested, or what a decoder can write; half of all where it reads too."""
    bound = loading.target_positions(config)
    if not getattr(config, "is_encoder_decoder", False):
        bound = None if max_length is None else max(2, max_length // 2)
    return min((b for b in (requested, bound) if b is not None), default=None)
