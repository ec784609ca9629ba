"""What a task, now that its model and its examples are known, can do with the recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from keeltune.data.dataset import Row, blocks
from keeltune.models.tokenizer_training import texts_of
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common.control_tokens import control_names, written_in
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.metrics.loss import Loss
from keeltune.tasks.task import Task
from keeltune.training.preparation.material import SCORED
from keeltune.training.preparation.row_encoding import field_of
from keeltune.utils.errors import Problem, shown, visible
from keeltune.utils.json_search import may_hold
from keeltune.utils.messages import Message


def task_problems(task: Task, recipe: Recipe) -> list[Problem]:
    """What the task, now that its model is known, cannot do with the recipe."""
    faults = [*task.scoring.faults(), *task.recipe_faults()]
    problems = [Problem(recipe.where(f.field), f.field, f.found, f.expected, f.fix, f.kind) for f in faults]
    known = {problem.field for problem in problems}
    return [*problems, *(problem for problem in _length_problems(task, recipe) if problem.field not in known)]


def _length_problems(task: Task, recipe: Recipe) -> Iterator[Problem]:
    """Lengths at which nothing of a text is left, or more is written than the model has places for."""
    if recipe.max_length is not None and task.reads == "text":
        marks = int(task.tokenizer.num_special_tokens_to_add(pair=False))
        if recipe.max_length <= marks:
            expected, fix = f"at least {marks + 1}: {marks} special tokens, and a text", "raise max_length"
            yield Problem(recipe.where("max_length"), "max_length", shown(recipe.max_length), expected, fix)
    if (asked := recipe.target_max_length) is not None:
        where, most = recipe.where("target_max_length"), task.settings.bounds.written
        if asked < 2:
            expected, fix = "at least 2: a token, and the end of the text", "raise target_max_length"
            yield Problem(where, "target_max_length", shown(asked), expected, fix)
        elif most is not None and asked > most:
            expected, fix = f"at most {most}, which is what the decoder can write", f"target_max_length: {most}"
            yield Problem(where, "target_max_length", shown(asked), expected, fix)


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


def packing_problems(recipe: Recipe, task: Task) -> list[Problem]:
    """Why texts cannot be packed in this run, as far as no weights are needed to say so (`build` tries the model)."""
    if not recipe.training.packing:
        return []
    import transformers

    config = task.settings.config
    kind = getattr(transformers, task.settings.auto_model)._model_mapping[type(config)]
    reasons = {
        f"{config.model_type} does not read text alone, each token by those before it": not task.reads_prompt
        or task.reads != "text",
        f"{config.model_type} keeps a state across tokens, also from one text into the next": kind._is_stateful,
        "objective.matching compares layers position by position": bool(recipe.objective.matching),
        "fgm moves the embeddings of each text by itself": "fgm" in recipe.training.all_regularizers,
    }
    where, fix = recipe.where("training.packing"), "leave packing out"
    return [
        Problem(where, "training.packing", "true", f"no packing: {reason}", fix)
        for reason, holds in reasons.items()
        if holds
    ][:1]


def without_targets(encoded: Sequence[Sequence[Example]]) -> bool:
    """Whether nothing is predicted in these rows, as they have no text and their predictions are its tokens."""
    return not any(example.predictions for row in encoded for example in row)


BLOCK = 500
"""Rows whose texts are searched together, as most hold no special token."""


def control_token_warnings(task: Task, rows: Mapping[str, Sequence[Row]], where: Callable[[str], str]) -> list[Problem]:
    """One for each split in whose texts special tokens are written, which are read as text. `where`: of a split."""
    warnings = list[Problem]()
    for split, of_split in rows.items():
        names = list[list[str]]()
        for block in blocks(of_split, BLOCK, may_hold(control_names(task.tokenizer))):
            if written_in(task.tokenizer, ["\n".join(texts_of(type(task), block))]):
                found_in = (written_in(task.tokenizer, texts_of(type(task), [row])) for row in block)
                names += [of_row for of_row in found_in if of_row]
        if names:
            written = ", ".join(visible(name) for name in sorted({name for of_row in names for name in of_row})[:5])
            template = "{count} of {all} rows of {split} have special tokens written in a text: {names}"
            found = Message(template, count=len(names), all=len(of_split), split=Message(split), names=written)
            expected = Message("texts without them; what is written is read letter by letter, and commands nothing")
            fix = Message("leave them out: keeltune puts a model's special tokens around a text itself")
            warnings.append(Problem(where(split), split, found, expected, fix, severity="warning"))
    return warnings


def lesson_problems(recipe: Recipe, task: Task, encoded: Sequence[Sequence[Example]]) -> list[Problem]:
    """Training rows of which nothing is learnt: an error where that are all of them, else a warning."""
    if not encoded or recipe.only_writes():
        return []
    empty = sum(not any(task.lessons(example) > 0 for example in row) for row in encoded)
    if not empty:
        return []
    found = Message("{count} of {all} rows of train have nothing to learn", count=empty, all=len(encoded))
    expected = Message("a label, a span or a text within what the model reads")
    fix = Message("look at their labels; raise max_length where the answer lies behind it, or leave them out")
    severity: Literal["error", "warning"] = "error" if empty == len(encoded) else "warning"
    return [Problem(recipe.where("data.train"), "data.train", found, expected, fix, severity=severity)]


def loss_problems(
    recipe: Recipe, task: Task, encoded: Mapping[str, Sequence[Sequence[Example]]]
) -> Iterator[Problem | str]:
    """Scored rows without a loss, as they are answered in parts of which no text is known: said, and a fault where the
    loss would choose the best weights, by the other rows alone."""
    chooses = task.metrics[0] in Loss.names
    for split in SCORED if task.generates else ():
        rows = encoded.get(split) or []
        without = sum(not any(example.labelled for example in row) for row in rows)
        if not without:
            continue
        found = f"{without} of {len(rows)} rows of {split} have no loss: they are answered in parts"
        if chooses:
            other, where = task.reported[0], recipe.where("evaluation.metric")
            expected, fix = f"{other}, which all rows have", f"leave it out ({other} chooses), or cut these recordings"
            yield Problem(where, "evaluation.metric", f"{task.metrics[0]}, and {found}", expected, fix)
        elif without < len(rows):
            yield f"{found}; the loss is that of the others"
        else:
            yield found + (f"; {task.metrics[0]} alone chooses the best" if split == "validation" else "")


def router_warnings(recipe: Recipe, config: Any) -> list[Problem]:
    """The loss of a mixture of experts that spreads tokens over them, where the configuration asks for it.

    It is a product of means over a batch, so that its sum over micro-batches would depend on how a step is cut.
    """
    for part in (config, config.get_text_config()):
        names = [n for n in ("router_aux_loss_coef", "router_z_loss_coef") if getattr(part, n, None)]
        if getattr(part, "output_router_logits", False) and names:
            coefficients = ", ".join(f"{name}: {getattr(part, name):g}" for name in names)
            found = Message("output_router_logits: true, with {coefficients}", coefficients=coefficients)
            expected = Message("no auxiliary loss: L is CE + weight · D, and experts stay balanced as they were")
            fix = Message("write output_router_logits: false into config.json to say that none is meant")
            return [Problem(recipe.where("model"), "model", found, expected, fix, severity="warning")]
    return []


def truncation_warnings(
    recipe: Recipe, encoded: Mapping[str, Sequence[Sequence[Example]]], settings: Settings
) -> list[Problem]:
    """For each split that holds rows longer than the model reads, or with texts longer than it learns."""
    warnings = list[Problem]()
    for name, rows in encoded.items():
        read = sum(any(e.truncated and e.notes.get("source_cut", True) for e in row) for row in rows)
        written = sum(any(e.notes.get("target_cut") for e in row) for row in rows)
        if read:
            template = "{cut} of {all} rows of {split} ({share:.1%}) are longer than {most} tokens and are cut"
            fix = Message("raise max_length if the model allows it, or shorten the texts; what is cut is not read")
            warnings.append(_truncation_warning(recipe, name, template, (read, len(rows)), settings.max_length, fix))
        if written:
            template = (
                "{cut} of {all} texts to be written in {split} ({share:.1%}) are longer than {most} tokens and are cut"
            )
            fix = Message(
                "raise target_max_length if the model allows it, or shorten the texts; what is cut is not learnt"
            )
            most = settings.target_max_length
            warnings.append(_truncation_warning(recipe, name, template, (written, len(rows)), most, fix))
    return warnings


def _truncation_warning(
    recipe: Recipe, split: str, template: str, counts: tuple[int, int], most: int | None, fix: Message
) -> Problem:
    cut, total = counts
    found = Message(template, cut=cut, all=total, split=Message(split), share=cut / total, most=most)
    return Problem(recipe.where(field_of(split)), split, found, Message("rows that fit"), fix, severity="warning")
