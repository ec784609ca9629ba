"""What a recipe may say for its task."""

from __future__ import annotations

from collections.abc import Iterator

from keeltune.recipe.fields import Recipe
from keeltune.recipe.generation_fields import MOST_NEW_TOKENS, Generation
from keeltune.recipe.task_names import unknown_task
from keeltune.utils import registry
from keeltune.utils.errors import Problem


def task_faults(recipe: Recipe) -> Iterator[Problem]:
    """An unknown task, and fields of text, of languages and of several labels for a task without these."""
    built, task = registry.names("tasks"), recipe.task
    if ":" not in task and task not in built:
        expected = f"one of: {', '.join(built)}; or my_package.my_module:MyTask"
        yield recipe.problem("task", expected=expected, fix=unknown_task(task))
    for field in (field for field in writing_fields(recipe) if ":" not in task):
        if not task_allows(recipe, "generates"):
            yield recipe.problem(field, expected=f"no {field}: {task} writes no text", fix="leave it out")
        elif field == "languages" and not task_allows(recipe, "accepts_languages"):
            yield recipe.problem(field, expected=f"no languages: {task} has one language", fix="leave it out")
    yield from _message_faults(recipe)
    for field in ("length_penalty", "early_stopping"):
        if recipe.generation.beams == 1 and field in recipe.generation.decoding():
            expected = f"no {field}: a text is written token by token, without beams"
            yield recipe.problem(f"generation.{field}", expected=expected, fix="write beams: 4, or leave it out")
    most = recipe.generation.max_new_tokens or MOST_NEW_TOKENS
    if recipe.generation.min_new_tokens > most:
        expected = f"at most max_new_tokens, {most}"
        yield recipe.problem("generation.min_new_tokens", expected=expected, fix="lower it, or raise max_new_tokens")
    if recipe.method == "fine-tuning":
        of_reference = {"targets": recipe.generation.targets != "data", "on_policy": recipe.generation.on_policy > 0}
        for field, is_set in of_reference.items():
            if is_set:
                expected = f"no {field}: fine-tuning has no reference to write texts or to score them"
                yield recipe.problem(f"generation.{field}", expected=expected, fix="choose method: distillation")
    elif recipe.generation.min_agreement > 0 and recipe.generation.targets == "data":
        expected, fix = "0: no reference writes targets", "add generation.targets: reference, or leave it out"
        yield recipe.problem("generation.min_agreement", expected=expected, fix=fix)
    elif recipe.method == "cross-domain" and recipe.generation.targets != "data":
        expected = "data: what the source model would write of the new domain is what it knew before"
        yield recipe.problem("generation.targets", expected=expected, fix="choose method: distillation")
    if recipe.data.multi_label and not task_allows(recipe, "accepts_multi_label"):
        fix = "write task: text-classification, or leave multi_label out"
        yield recipe.problem("data.multi_label", expected=f"false: {task} gives a row one label", fix=fix)


def writing_fields(recipe: Recipe) -> list[str]:
    """The fields that the recipe sets which are for tasks that write alone."""
    used = {
        "generation": recipe.generation != Generation(),
        "target_max_length": recipe.target_max_length is not None,
        "prompt": recipe.prompt is not None,
        "languages": recipe.languages is not None,
    }
    return [field for field, is_set in used.items() if is_set]


def _message_faults(recipe: Recipe) -> Iterator[Problem]:
    """Messages of a prompt in an order that asks for no answer."""
    prompts = {"prompt": recipe.prompt}
    prompts |= {f"data.source.test.{i}.prompt": test.prompt for i, test in enumerate(recipe.data.source.named_tests)}
    for field, prompt in prompts.items():
        if not isinstance(prompt, list):
            continue
        roles = [message.role for message in prompt]
        talk = roles[1:] if roles[0] == "system" else roles
        if talk != ["user", "assistant"] * (len(talk) // 2) + ["user"]:
            expected = "system first or not at all, then user and assistant in turns, user last: who asks"
            fix = "put the messages in order; the answer is what the model writes behind them"
            yield recipe.problem(field, expected=expected, fix=fix, found=f"messages of {', '.join(roles)}")


def task_allows(recipe: Recipe, attribute: str) -> bool:
    """Whether the recipe's task has a property of its class: `generates`, `accepts_languages`, ….

    The task's file is imported for it (and torch with it), so it is asked only of a recipe that uses the field
    concerned. Not for a task from outside the package, which is imported once the recipe is sound: it is let pass.
    """
    if ":" in recipe.task:
        return True
    if registry.check("tasks", recipe.task):
        return False
    task_class = registry.find("tasks", recipe.task)
    return bool(getattr(task_class, attribute)) or (attribute == "generates" and bool(task_class.may_generate))
