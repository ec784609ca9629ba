"""What fits together: a model with what it is to read and write, a reference with its student. No weights.

A reference that does not fit is refused by what differs: the names of its labels, its tokens, its places in a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keeltune import models
from keeltune.data import Row
from keeltune.problems import Problem, UserError, shown
from keeltune.recipe import Recipe
from keeltune.tasks.task import Settings, Task

NEW = "a new model"
"""What stands for the source of a model that starts from random weights."""

PROBES = 200
"""Texts on which two tokenizers must agree before they count as the same."""


@dataclass(frozen=True)
class ReferenceFiles:
    """One model of the reference, not loaded yet: where it lies, its label names in its order, how it reads a row."""

    source: str
    names: list[str]
    companion: str | None
    auto_model: str


def known_names(head: list[str] | None, names: list[str]) -> list[str] | None:
    """A head's names; `LABEL_n` is no name, but where the data's labels are whole numbers it stands for n."""
    if head and all(re.fullmatch(r"LABEL_\d+", name) for name in head):
        return [name.removeprefix("LABEL_") for name in head] if all(n.isdigit() for n in names) else None
    return head


def reading_length(
    asked: int | None, config: Any, processor: Any, task_class: type[Task], auto_model: str, where: str
) -> int | None:
    """The smaller of the tokenizer's and the model's maximum, or what is asked for, which must not be larger.

    Pictures and sound are no tokens: only what is asked for bounds them.
    """
    if task_class.reads != "text":
        return asked
    shape = models.skeleton(config, auto_model, where, "model")
    bounds = [models.positions(shape), processor.model_max_length]
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
    bound = models.target_positions(config)
    if not getattr(config, "is_encoder_decoder", False):
        bound = None if max_length is None else max(2, max_length // 2)
    return min((b for b in (asked, bound) if b is not None), default=None)


def references(
    recipe: Recipe,
    sources: Sequence[str],
    processor: Any,
    settings: Settings,
    task_class: type[Task],
    rows: dict[str, list[Row]],
) -> tuple[list[ReferenceFiles], dict[str, Task]]:
    """The reference's models, checked by label name; those that read text otherwise get an encoding of their own."""
    probes = [*rows["train"], *rows["unlabeled"]][:PROBES]
    files, companions = [], {}
    problems: list[Problem] = []
    where = recipe.where("reference")
    for number, source in enumerate(sources):
        config = models.read_config(source, where, "reference")
        theirs = models.read_processor(source, where, "reference", task_class.reads)
        models.prepare_tokenizer(config, theirs)
        auto_model = models.pick(task_class.auto_models, config, where, "reference")
        names = known_names(models.head_names(config), list(settings.labels)) or models.head_names(config) or []
        names = names if task_class.choices == "labels" else []
        if missing := models.untrained_head(source, config, auto_model):
            problems.append(no_trained_head(source, missing, where))
            continue
        if set(names) != set(settings.labels):
            problems.append(_other_labels(where, source, names, settings.labels))
            continue
        if task_class.choices == "tokens" and (reason := _other_tokens(source, config, theirs, settings, processor)):
            problems.append(Problem(where, "reference", *reason))
            continue
        kinds = {True: "multi_label_classification", False: "single_label_classification"}
        if getattr(config, "problem_type", None) == kinds[not settings.multi_label]:
            problems.append(
                Problem(
                    where,
                    "reference",
                    f"{shown(source)} was trained as {config.problem_type}",
                    f"{kinds[settings.multi_label]}, as this recipe trains",
                    "take a reference trained with the same multi_label",
                )
            )
            continue
        reach = reading_length(None, config, theirs, task_class, auto_model, where)
        short = reach is not None and (settings.max_length is None or reach < settings.max_length)
        bounds = [b for b in (reach, settings.max_length) if b is not None]
        own = replace(settings, max_length=min(bounds, default=None), config=config, auto_model=auto_model)
        reader = task_class(theirs, own)
        if task_class.choices == "tokens" and (
            reason := _other_count(source, task_class(processor, settings), reader, probes)
        ):
            problems.append(Problem(where, "reference", *reason))
            continue
        companion = None
        if short or not _same_encoding(task_class(processor, settings), reader, probes):
            if task_class.choices == "positions":
                problems.append(_other_positions(where, source))
                continue
            companion = f"reference_{number}"
            companions[companion] = reader
        files.append(ReferenceFiles(source, names, companion, auto_model))
    if problems:
        raise UserError(problems)
    return files, companions


def _same_encoding(ours: Task, theirs: Task, probes: Sequence[Row]) -> bool:
    """Whether two models read rows alike: the same token for every id, and the same inputs for the probes.

    Equal sizes prove nothing: two vocabularies of 50 257 tokens may share hardly one id. Nor do equal ids: one model
    may want the segments of a pair, where the other has none.
    """
    a, b = ours.tokenizer, theirs.tokenizer
    if a.get_vocab() != b.get_vocab() or (a.pad_token_id, a.padding_side) != (b.pad_token_id, b.padding_side):
        return False
    return all(
        _alike(
            [e.inputs for e in ours.encode(row, labelled=False)], [e.inputs for e in theirs.encode(row, labelled=False)]
        )
        for row in probes
    )


def _other_count(source: str, ours: Task, theirs: Task, probes: Sequence[Row]) -> tuple[str, str, str] | None:
    """Why a reference has other predictions in a row than the student, as (found, expected, mend): other frames."""
    for row in probes[:20]:
        a, b = (sum(e.predictions for e in task.encode(row, labelled=False)) for task in (ours, theirs))
        if a != b:
            found = f"{shown(source)}, which makes {b} predictions of {row.file}:{row.line}"
            mend = "take a reference of the same kind, with the same convolutions before its encoder"
            return found, f"the student's {a}: a prediction for each frame of it", mend
    return None


def _alike(a: Any, b: Any) -> bool:
    """Equality of nested lists, mappings and arrays."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)
    if isinstance(a, list) and isinstance(b, list) and a and isinstance(a[0], Mapping):
        return len(a) == len(b) and all(_alike(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


def _other_tokens(source: str, config: Any, theirs: Any, settings: Settings, ours: Any) -> tuple[str, str, str] | None:
    """Why a reference cannot say what the student's next token should be, as (found, expected, mend)."""
    a, b = models.tokenizer_of(ours), models.tokenizer_of(theirs)
    mend = "take a reference of the same family; or let it write the targets (data.unlabeled), which needs no tokens"
    if a.get_vocab() != b.get_vocab():
        differ = sorted((i for t, i in b.get_vocab().items() if a.get_vocab().get(t) != i))[:5]
        found = (
            f"{shown(source)}, whose tokenizer has other tokens at the ids {', '.join(map(str, differ)) or 'it lacks'}"
        )
        return found, "the student's tokenizer: the same token for every id", mend
    starts = [getattr(c, "decoder_start_token_id", None) for c in (settings.config, config)]
    if starts[0] != starts[1]:
        return f"{shown(source)}, whose decoder starts from token {starts[1]}", f"the student's start {starts[0]}", mend
    sizes = [models.vocabulary_size(c) for c in (settings.config, config)]
    if sizes[0] != sizes[1]:
        found = f"{shown(source)} with {sizes[1]} choices"
        return found, f"the student's {sizes[0]} choices (another padding of one vocabulary is not built yet)", mend
    return None


def _other_positions(where: str, source: str) -> Problem:
    return Problem(
        where,
        "reference",
        f"{shown(source)}, which cuts these texts into other tokens",
        "a reference that reads the rows as the student does: an answer's start and end are places among its tokens",
        "take a reference with the student's tokenizer and at least its max_length",
    )


def own_head(
    recipe: Recipe, source: str, config: Any, head: list[str] | None, names: list[str], auto_model: str
) -> None:
    """The model as it was before training can be the reference only if its head knows these labels."""
    where = recipe.where("method")
    if source == NEW:
        raise UserError(no_trained_head(source, ["all weights"], where))
    if missing := models.untrained_head(source, config, auto_model):
        raise UserError(no_trained_head(source, missing, where))
    if names and known_names(head, names) != names:
        raise UserError(_other_labels(where, source, head or [], names))


def no_trained_head(source: str, missing: Sequence[str], where: str) -> Problem:
    return Problem(
        where,
        "reference",
        f"{shown(source)} has no trained head for these labels: {', '.join(missing)} would be random",
        "a reference whose task head was trained; staying near a random head teaches noise",
        "fine-tune that model on the source domain first (method: fine-tuning), then name its run here",
    )


def _other_labels(where: str, source: str, names: Sequence[str], labels: Sequence[str]) -> Problem:
    return Problem(
        where,
        "reference",
        f"{shown(source)} with the labels {', '.join(names[:20]) or 'none'}",
        f"the labels {', '.join(labels[:20])} (in any order)",
        "take a reference trained on these labels, or map the data's names to its names with data.labels",
    )
