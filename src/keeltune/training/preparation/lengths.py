"""How long inputs and targets may be: of the recipe, the tokenizer and the model the smallest."""

from __future__ import annotations

from typing import Any

from keeltune.models import loading
from keeltune.tasks.task import Task
from keeltune.utils.errors import Problem, UserError, shown


def reading_length(
    asked: int | None, config: Any, processor: Any, task_class: type[Task], auto_model: str, where: str
) -> int | None:
    """The smaller of the tokenizer's and the model's maximum, or what is asked for, which must not be larger.

    Pictures and sound are no tokens: only what is asked for bounds them.
    """
    if task_class.reads != "text":
        return asked
    shape = loading.skeleton(config, auto_model, where, "model")
    bounds = [loading.positions(shape), processor.model_max_length]
    bound = min((int(b) for b in bounds if b is not None and b < 1_000_000), default=None)
    if asked is not None and bound is not None and asked > bound:
        raise UserError(
            Problem(
                where,
                "max_length",
                shown(asked),
                f"at most {bound}, which is what the model and its tokenizer can read",
                f"max_length: {bound}, or a model that reads longer texts",
            )
        )
    return bound if asked is None else asked


def writing_length(asked: int | None, config: Any, max_length: int | None) -> int | None:
    """The most tokens of a target: what is asked for, or what a decoder can write; half of all where it reads too."""
    bound = loading.target_positions(config)
    if not getattr(config, "is_encoder_decoder", False):
        bound = None if max_length is None else max(2, max_length // 2)
    return min((b for b in (asked, bound) if b is not None), default=None)
