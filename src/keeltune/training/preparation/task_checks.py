"""What a task, now that its model and its examples are known, can do with the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keeltune.recipe.fields import Recipe
from keeltune.tasks.common.example import Example
from keeltune.tasks.task import Task
from keeltune.training.preparation.row_encoding import field_of
from keeltune.utils.errors import Problem
from keeltune.utils.messages import Message


def task_problems(task: Task, recipe: Recipe) -> list[Problem]:
    """What the task, now that its model is known, cannot do with the recipe."""
    faults = [*task.scoring.faults(), *task.recipe_faults()]
    return [Problem(recipe.where(f.field), f.field, f.found, f.expected, f.fix, f.kind) for f in faults]


def writing_problems(
    recipe: Recipe, task: Task, unlabeled: Sequence[Sequence[Example]], has_teacher: bool
) -> list[Problem]:
    """Texts that nothing would write: those of unlabelled rows without a teacher, and those of the student itself."""
    problems = list[Problem]()
    if needs_text(recipe, task, unlabeled) and not has_teacher:
        found = "rows without a target, in which this task predicts nothing"
        expected = "what this version has: without a teacher no one writes the targets"
        problems.append(Problem(recipe.where("data.unlabeled"), "data.unlabeled", found, expected, "leave it out"))
    if recipe.generation.on_policy and not task.samples:
        where, expected = recipe.where("generation"), "a model that writes token by token"
        found = f"{task.settings.auto_model}, which chooses for all frames at once"
        problems.append(Problem(where, "generation.on_policy", found, expected, "leave it out"))
    return problems


def needs_text(recipe: Recipe, task: Task, encoded: Sequence[Sequence[Example]]) -> bool:
    """Whether a teacher must write a text for rows without labels: as their label, or to predict anything."""
    return task.generates and bool(encoded) and (without_targets(encoded) or recipe.data.unlabeled_as == "labels")


def without_targets(encoded: Sequence[Sequence[Example]]) -> bool:
    """Whether nothing is predicted in these rows, as they have no text and their predictions are its tokens."""
    return not any(example.predictions for row in encoded for example in row)


def truncation_warnings(
    recipe: Recipe, encoded: Mapping[str, Sequence[Sequence[Example]]], max_length: int | None
) -> list[Problem]:
    """One for each split that holds rows which are longer than the model reads."""
    warnings = list[Problem]()
    for name, rows in encoded.items():
        if truncated := sum(any(example.truncated for example in row) for row in rows):
            warnings.append(_truncation_warning(recipe, name, truncated, len(rows), max_length))
    return warnings


def _truncation_warning(recipe: Recipe, split: str, truncated: int, total: int, max_length: int | None) -> Problem:
    template = "{cut} of {all} rows of {split} ({share:.1%}) are longer than {most} tokens and are cut"
    return Problem(
        recipe.where(field_of(split)),
        split,
        Message(template, cut=truncated, all=total, split=Message(split), share=truncated / total, most=max_length),
        Message("rows that fit"),
        Message("raise max_length if the model allows it, or shorten the texts; what is cut is not read"),
        severity="warning",
    )
