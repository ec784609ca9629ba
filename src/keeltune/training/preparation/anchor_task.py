"""The task as a second head has it (`objective.anchor_head`): with the old labels, or with masked tokens."""

from __future__ import annotations

from dataclasses import replace

from keeltune.models import loading
from keeltune.recipe.fields import Recipe
from keeltune.tasks.families.masked_lm import MaskedLm
from keeltune.tasks.task import Task
from keeltune.utils.errors import Problem, UserError, shown


def anchor_task_of(recipe: Recipe, task: Task, head: list[str] | None, source: str) -> Task:
    """The second head's task. `task` is the student's, `head` the old head's names, `source` where its weights lie."""
    where, settings = recipe.where("objective"), task.settings
    if recipe.objective.anchor_head == "source":
        if not head:
            found, expected = "a model whose head has no names", "one that was trained for the old labels"
            fix = "fine-tune it on the source domain first, or write anchor_head: masked-lm"
            raise UserError(Problem(where, "objective.anchor_head", found, expected, fix))
        return type(task)(task.processor, replace(settings, labels=head, class_weights=None))
    masked = MaskedLm(task.processor, replace(settings, labels=[]))
    if missing := loading.untrained_head(source, settings.config, masked.auto_models[0]):
        found, expected = f"{shown(source)} without {', '.join(missing[:3])}", "a pretrained head of masked tokens"
        raise UserError(Problem(where, "objective.anchor_head", found, expected, "write anchor_head: source"))
    if masked.tokenizer.mask_token_id is None:
        found, expected = "a tokenizer without a mask token", "an encoder that was trained on masked tokens"
        raise UserError(Problem(where, "objective.anchor_head", found, expected, "write anchor_head: source"))
    masked.seed = recipe.seed
    return masked
